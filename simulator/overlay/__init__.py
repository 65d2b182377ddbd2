"""The FPGA overlay without an FPGA: two executors behind ``hal.OverlayTransport``, found by name.

``functional`` runs the instruction set in numpy (``machine``, ``datapath``); ``rtl`` clocks the RTL itself, which
``build`` compiles with Verilator, against a model of the board's memory (``harness.cpp``, ``ddr.hpp``). ``memory``
holds the buffers of both. This room imports hal, overlay, types and errors.
"""

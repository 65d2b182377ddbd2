"""Overlay programs on OpenCL devices: GPUs, FPGA cards and CPUs, with the bits of the functional model.

``plan`` says, without touching a device, which buffers a segment needs and which kernels run in which order;
the kernels are in ``kernels/``; ``build`` compiles them or loads a binary, ``engine`` runs plans.
Imports pyopencl (platforms, build, engine) and numpy: for workers and commands, never for the daemon.
"""

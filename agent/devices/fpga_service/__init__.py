"""The privileged process that owns a board's FPGA, overlaid-fpga.service: ``python -m agent.devices.fpga_service``.

Loading a bitstream, mapping registers and allocating contiguous memory need root; serving models must not have it. So
one small process has it and lends the FPGA over a Unix socket through the operations of ``hal.OverlayTransport``, to
several clients that take turns (``turns``, ``fpga``). Clients are not trusted: they reach the core's registers and no
others, and the core's transfers reach buffers of the client that started it and no other memory (``guard``).

The client's side is ``agent.devices.remote_transport``.
"""

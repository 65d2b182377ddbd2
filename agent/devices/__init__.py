"""The real hardware: CPU runtimes, power meters, the local board and the probe.

Runtimes are imported only when a session opens or in the probe's helper process, never in the daemon.
May import hal, overlay, types and errors.
"""

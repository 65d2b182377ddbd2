"""``python -m agent.devices.fpga_service``: see the package."""

from __future__ import annotations

import argparse
import contextlib
import pwd
import signal
import sys
import threading
from pathlib import Path

from agent.devices.fpga_service.server import Policy, Server, listen
from agent.devices.fpga_service.wire import socket_path
from agent.errors import OverlaidError
from agent.logs.start import start_logging
from agent.overlay.transports import find_transport

MODEL = Path("/proc/device-tree/model")


def main() -> int:
    """Serve until SIGTERM. Exit status 1 with the reason when it cannot."""
    arguments = _parser().parse_args()
    start_logging(verbose=False, identifier="overlaid-fpga")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        account = pwd.getpwnam(arguments.user)
        policy = Policy(account.pw_uid, account.pw_gid, tuple(arguments.allow), _model())
        load = find_transport(arguments.transport)
        listening = listen(arguments.socket)
    except (KeyError, OverlaidError) as error:
        print(f"overlaid-fpga: {error}", file=sys.stderr)
        return 1
    with listening:
        try:
            Server(listening, policy, load).run(stop)
        finally:
            with contextlib.suppress(OSError):
                arguments.socket.unlink()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("overlaid-fpga", description="Lends this board's FPGA to the agent.")
    parser.add_argument("--socket", type=Path, default=socket_path(), help="where it listens (%(default)s)")
    parser.add_argument("--transport", default="pynq", help="how it reaches the FPGA (%(default)s)")
    parser.add_argument("--user", default="overlaid", help="whose processes may use the FPGA (%(default)s)")
    parser.add_argument(
        "--allow", type=Path, action="append", required=True, metavar="FOLDER",
        help="overlays are loaded from below this folder; more than once for more",
    )  # fmt: skip
    return parser


def _model() -> str:
    """What the board calls itself, e.g. ``TUL PYNQ-Z2``; empty where there is no device tree."""
    try:
        return MODEL.read_bytes()[:100].rstrip(b"\0").decode(errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())

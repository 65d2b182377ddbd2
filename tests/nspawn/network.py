"""A network of the tests' own: nothing that they send leaves it."""

from __future__ import annotations

import ctypes
import os
import subprocess

HOST_ADDRESS = "192.0.2.1"  # TEST-NET-1, RFC 5737
BOX_ADDRESS = "192.0.2.2"
LINK = "overlaid-box"
BOX_LINK = "host0"
CLONE_NEWNET = 0x40000000


def leave_the_machines_network() -> None:
    """Move this thread, and what it starts from now on, into a new network that has only loopback."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    ip("link", "set", "lo", "up")


def plug_in() -> None:
    """Give this side of the box's link its address."""
    ip("address", "replace", f"{HOST_ADDRESS}/24", "dev", LINK)
    ip("link", "set", LINK, "up")


def pull_out() -> None:
    """The cable is out: nobody hears of what ends now."""
    ip("link", "set", LINK, "down")


def ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=10, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")

"""Prints why this machine cannot boot the package, or nothing."""

from __future__ import annotations

import sys

from tests.nspawn.rootfs import hindrance

if __name__ == "__main__":
    sys.stdout.write(hindrance())

"""Why OpenCL offers nothing here, from what the system shows: drivers are named by .icd files."""

from __future__ import annotations

from pathlib import Path


def opencl_problems(root: Path = Path("/")) -> list[str]:
    """Reasons with what to do about each; empty where nothing is wrong. ``root``: another system's files."""
    vendors = root / "etc/OpenCL/vendors"
    return [] if any(vendors.glob("*.icd")) else [f"no OpenCL driver is installed: {vendors} names none"]

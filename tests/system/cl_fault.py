"""OpenCL calls that fail on demand, in any process that is started with ``ClFault.environment``."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("cl_fault.c")
# OpenCL 3.0 specification, appendix F
DEVICE_NOT_AVAILABLE, MEM_OBJECT_ALLOCATION_FAILURE, OUT_OF_RESOURCES = -2, -4, -5


class ClFault:
    """Built into ``folder``. Functions that can fail: see cl_fault.c."""

    def __init__(self, folder: Path) -> None:
        self._library, self._file = folder / "cl_fault.so", folder / "cl-fault"
        command = ["g++", "-x", "c", "-O1", "-shared", "-fPIC", str(SOURCE), "-o", str(self._library), "-ldl"]
        subprocess.run(command, check=True, timeout=60)

    @property
    def environment(self) -> dict[str, str]:
        """What to start processes with."""
        return {"LD_PRELOAD": str(self._library), "OVERLAID_TEST_CL_FAULT": str(self._file)}

    def begin(self, *faults: str) -> None:
        """From now on calls fail: "function code", or "clCreateBuffer code bytes" for buffers of that size and up."""
        written = self._file.with_suffix(".new")
        written.write_text("".join(f"{fault}\n" for fault in faults))
        written.replace(self._file)

    def lose_device(self) -> None:
        """As a GPU that fell off its bus: neither running nor opening works."""
        gone = ("clEnqueueNDRangeKernel", "clWaitForEvents", "clCreateContext")
        self.begin(*(f"{function} {DEVICE_NOT_AVAILABLE}" for function in gone))

    def end(self) -> None:
        """Calls work again."""
        self._file.unlink(missing_ok=True)

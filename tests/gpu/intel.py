"""Intel's OpenCL for CPUs, as .venv-gpu has it."""

from __future__ import annotations

import sys
from pathlib import Path

LIBRARY = Path(sys.prefix) / "lib" / "libintelocl.so"


def intel_vendors(folder: Path, library: Path = LIBRARY) -> str:
    """What OCL_ICD_VENDORS must be for it: its wheel does not know where it is unpacked to.

    Raises FileNotFoundError where it is not installed.
    """
    if not library.is_file():
        raise FileNotFoundError(f"{library} is not there; run `make gpu`, and these tests by `make test-gpu`")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "intel.icd").write_text(f"{library}\n")
    return str(folder)

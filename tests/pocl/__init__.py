"""PoCL for tests: OpenCL on this CPU, without a package of the system."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("name_cpus.c")


def pocl_vendors(folder: Path) -> str:
    """What OCL_ICD_VENDORS must be for PoCL to build kernels on a CPU of any age; a driver is built into ``folder``.

    See name_cpus.c for what it does. Raises FileNotFoundError when no PoCL is installed, and
    CalledProcessError when the driver does not compile.
    """
    spec = importlib.util.find_spec("pyopencl")
    root = Path(spec.origin).parent if spec is not None and spec.origin else Path()
    found = sorted(root.glob(".libs/libpocl*.so"))
    if not found:
        raise FileNotFoundError("there is no PoCL beside pyopencl; uv pip install pocl-binary-distribution")
    library = folder / "libname-cpus.so"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            "g++",
            "-x",
            "c",
            "-O1",
            "-shared",
            "-fPIC",
            f'-DPOCL="{found[0]}"',
            str(SOURCE),
            "-o",
            str(library),
            "-ldl",
        ],
        check=True,
        timeout=60,
    )
    (folder / "name-cpus.icd").write_text(f"{library}\n")
    return str(folder)

"""An environment for armhf, for which there is no package of ours: wheels for armv7l where projects make them, Debian's
builds for the rest."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.nspawn.rootfs import NoRoot
from tests.system.stage import ROOT

# numpy 1.24, uvloop 0.17 and httptools 0.5 are older than what pyproject.toml asks for, and work.
DEBIANS = ("numpy", "cffi-backend", "httptools", "uvloop", "pytest", "hypothesis")
PACKAGES = ("python3.11", "passwd", "libstdc++6", "procps", *(f"python3-{name}" for name in DEBIANS))
SITE = "opt/overlaid/lib/python3.11/site-packages"
# No wheel for armv7l; onnxruntime and ai-edge-litert are nowhere.
NOT_THERE = {
    "numpy",
    "cffi",
    "httptools",
    "uvloop",
    "onnx",
    "onnxruntime",
    "ml-dtypes",
    "flatbuffers",
    "protobuf",
    "pip",
}
PLATFORMS = (
    "manylinux_2_34_armv7l",
    "manylinux_2_31_armv7l",
    "manylinux_2_17_armv7l",
    "manylinux2014_armv7l",
)


def wheels() -> list[str]:
    """``name==version`` of what requirements-node.lock has for armv7l and Python 3.11."""
    found = []
    for line in (ROOT / "requirements-node.lock").read_text().splitlines():
        match = re.match(r"([a-z0-9-]+)==(\S+)(.*)", line)
        if match is None or match[1] in NOT_THERE or "platform_machine != 'armv7l'" in match[3]:
            continue
        found.append(f"{match[1]}=={match[2]}")
    return found


def install(root: Path) -> None:
    """Put the environment into the root. Raises NoRoot."""
    packages = root / SITE
    packages.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    made = root / "root/wheels"
    _run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(made), str(ROOT))
    [own] = made.glob("overlaid-*.whl")
    target = ["--target", str(packages), "--no-deps", "--only-binary=:all:", "--python-version=3.11"]
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    _run(*pip, "install", *target, "--implementation=cp", *platforms, *wheels(), str(own))
    (packages / "debian.pth").write_text("/usr/lib/python3/dist-packages\n")
    environment = root / "opt/overlaid"
    (environment / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    programs = environment / "bin"
    programs.mkdir()
    (programs / "python").symlink_to("/usr/bin/python3.11")
    (programs / "overlaid").write_text(
        "#!/opt/overlaid/bin/python\nimport sys\nfrom agent.cli import main\nsys.exit(main())\n"
    )
    (programs / "overlaid").chmod(0o755)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode != 0:
        raise NoRoot(f"{' '.join(command[:4])}…: {done.stderr.strip()[-600:]}")

"""``make deb``: the Debian package for either architecture, from the tree and requirements-node.lock.

The package brings an environment of its own in /opt/overlaid, laid out here as ``python -m venv`` would: nothing of the
target architecture is executed, so an arm64 package is built on amd64. The same tree and lock give the same bytes
(https://reproducible-builds.org/docs/source-date-epoch/).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from systemd.deb import layout

REPO = Path(__file__).parents[2]
LOCK = REPO / "requirements-node.lock"
PYTHON = "3.11"  # Debian 12's
# Debian 12 has glibc 2.36.
PLATFORMS = {"amd64": "x86_64-manylinux_2_36", "arm64": "aarch64-manylinux_2_36"}
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
DEB_VERSION = re.compile(r"[0-9][A-Za-z0-9.+~]*")


class BuildFailed(Exception):
    """What stands in the way, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to build where. ``epoch``: seconds since 1970 that every file is dated to."""

    version: str
    arch: str
    work: Path
    epoch: int

    @property
    def root(self) -> Path:
        return self.work / "root"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build overlaid_VERSION_ARCH.deb.")
    parser.add_argument("--arch", choices=sorted(PLATFORMS), default="amd64")
    parser.add_argument("--version", default=project_version(), help="default: pyproject.toml's")
    parser.add_argument("--output", type=Path, default=REPO / "build" / "deb", metavar="FOLDER")
    args = parser.parse_args()
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=output) as work:
            deb = build(Job(args.version, args.arch, Path(work), source_date()), output)
    except BuildFailed as error:
        print(f"make deb: {error}", file=sys.stderr)
        return 1
    print(f"{deb} {deb.stat().st_size / 1e6:.1f} MB sha256:{hashlib.sha256(deb.read_bytes()).hexdigest()}")
    return 0


def build(job: Job, output: Path) -> Path:
    """The finished package. BuildFailed when a tool is missing or fails."""
    check_tools(job)
    wheel = make_wheel(job)
    packages = job.root / layout.PACKAGES
    install_packages(job, packages, "--require-hashes", "--requirements", LOCK)
    install_packages(job, packages, "--no-deps", wheel)
    layout.clean(packages)
    layout.environment(job.root)
    layout.system_files(job.root, REPO)
    layout.documents(job.root, REPO, job.version, job.epoch)
    layout.date(job.root, job.epoch)
    compile_packages(job)
    layout.date(job.root, job.epoch)
    control_files(job)
    made = job.work / f"overlaid_{job.version}_{job.arch}.deb"
    run("dpkg-deb", "--root-owner-group", "--build", job.root, made, epoch=job.epoch)
    return made.replace(output / made.name)


def project_version() -> str:
    found = re.search(r'^version = "([^"]+)"$', (REPO / "pyproject.toml").read_text(), flags=re.MULTILINE)
    if found is None:
        raise BuildFailed("pyproject.toml has no version")
    return found.group(1)


def source_date() -> int:
    """$SOURCE_DATE_EPOCH, else the time of the last commit."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or run("git", "-C", REPO, "log", "-1", "--format=%ct"))


def check_tools(job: Job) -> None:
    if sys.version_info[:2] != tuple(map(int, PYTHON.split("."))):
        raise BuildFailed(
            f"needs Python {PYTHON}, whose byte code the package brings; this is {sys.version.split()[0]}: "
            f"make clean deb PYTHON=python{PYTHON}"
        )
    if shutil.which("dpkg-deb") is None:
        raise BuildFailed("dpkg-deb is missing: sudo apt-get install dpkg")
    if not DEB_VERSION.fullmatch(job.version):
        raise BuildFailed(f"{job.version!r} is no version: digits first, then letters, digits and . + ~")


def make_wheel(job: Job) -> Path:
    """overlaid itself. From a copy: setuptools leaves files where it builds, and takes in those that it finds."""
    source = job.work / "source"
    for name in ("agent", "simulator", "bitstreams", "systemd"):
        shutil.copytree(
            REPO / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, source / name)
    for name in ("pyproject.toml", "agent/__init__.py"):
        set_version(source / name, job.version)
    wheels = job.work / "wheel"
    run(uv(), "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", wheels,
        source, epoch=job.epoch)  # fmt: skip
    [wheel] = wheels.glob("overlaid-*.whl")
    return wheel


def set_version(path: Path, version: str) -> None:
    text = re.sub(
        r'^(version|__version__) = "[^"]+"$', rf'\1 = "{version}"', path.read_text(), flags=re.MULTILINE
    )
    path.write_text(text)


def install_packages(job: Job, packages: Path, *what: str | Path) -> None:
    # From / because uv would take the constraints in pyproject.toml, which have no hashes, for requirements.
    run(uv(), "pip", "install", "--quiet", "--target", packages, "--python", sys.executable, "--python-version", PYTHON,
        "--python-platform", PLATFORMS[job.arch], "--only-binary", ":all:", "--link-mode", "copy", *what,
        folder=Path("/"))  # fmt: skip


def compile_packages(job: Job) -> None:
    """Byte code with the paths it will have. Its validity is by date, and the files are dated already."""
    run(sys.executable, "-m", "compileall", "-q", "-x", "/templates?/", "-s", job.root, "-p", "/",
        job.root / layout.PACKAGES, epoch=job.epoch)  # fmt: skip


def control_files(job: Job) -> None:
    control = job.root / "DEBIAN"
    control.mkdir()
    values = {
        "VERSION": job.version,
        "ARCH": job.arch,
        "KIB": str(layout.installed_kib(job.root)),
        "SUMMARY": "edge agent: signed ML models over MQTT, on CPU, GPU or FPGA overlay",
        "SCHEMAS": schemas(),
    }
    for name in ("control", *SCRIPTS):
        text = filled((Path(__file__).parent / name).read_text(), values)
        (control / name).write_text(text)
        (control / name).chmod(0o755 if name in SCRIPTS else 0o644)
    (control / "md5sums").write_text(layout.md5sums(job.root))
    layout.date(control, job.epoch)


def filled(text: str, values: dict[str, str]) -> str:
    """``@NAME@`` replaced by its value; KeyError for one that has none."""
    return re.sub(r"@([A-Z]+)@", lambda match: values[match.group(1)], text)


def schemas() -> str:
    """``state.db=4 …``: of each database of a node the newest schema that this version reads."""
    from agent.deploy.journal import SCHEMA_VERSION as JOURNAL
    from agent.link.spool import SCHEMA_VERSION as OUTBOX
    from agent.telemetry.schema import VERSION as TELEMETRY

    return f"state.db={JOURNAL} telemetry.db={TELEMETRY} outbox.db={OUTBOX}"


def uv() -> Path:
    return Path(sys.executable).parent / "uv"


def run(*command: str | Path, epoch: int | None = None, folder: Path = REPO) -> str:
    """Its output; BuildFailed with what it said when it fails."""
    environ = {**os.environ, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "UV_NO_CONFIG": "1"}
    if epoch is not None:
        environ["SOURCE_DATE_EPOCH"] = str(epoch)
    done = subprocess.run(
        [str(part) for part in command], env=environ, cwd=folder, text=True, check=False, capture_output=True
    )
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip()
        raise BuildFailed(f"{Path(command[0]).name} failed with {done.returncode}: {said}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

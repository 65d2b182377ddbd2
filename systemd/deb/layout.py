"""What lies where in the Debian package's root."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import shutil
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

from systemd.deb import completion, man, tree

HOME = Path("opt/overlaid")
PACKAGES = HOME / "lib/python3.11/site-packages"
# Commands of libraries, tests and examples.
LEFT_OUT = (
    "bin",
    "share/man",
    "share/doc",
    "onnx/backend/test",
    "numpy/**/tests",
    "pip/_vendor/**/tests",
    "pytools/test",
)
# They name the folders and times of the build.
OF_THE_BUILD = ("*.dist-info/direct_url.json", "*.dist-info/uv_cache.json", "*.dist-info/REQUESTED", ".lock")
# overlaid is run by the environment's Python, whose packages it sees and no others.
COMMAND = """\
#!/opt/overlaid/bin/python3
import sys

from agent.cli import main

sys.exit(main())
"""
PIP = COMMAND.replace("agent.cli", "pip._internal.cli.main")  # for a GPU's build of a runtime
ENVIRONMENT = """\
home = /usr/bin
include-system-site-packages = false
version = 3.11.2
executable = /usr/bin/python3.11
"""
SYSTEM_FILES = {
    "overlaid.service": "usr/lib/systemd/system/overlaid.service",
    "overlaid-fpga.service": "usr/lib/systemd/system/overlaid-fpga.service",
    "overlaid.sysusers": "usr/lib/sysusers.d/overlaid.conf",
    "overlaid.tmpfiles": "usr/lib/tmpfiles.d/overlaid.conf",
    "60-overlaid.rules": "usr/lib/udev/rules.d/60-overlaid.rules",
}
DOC = Path("usr/share/doc/overlaid")
EXAMPLES = ("overlaid-*.conf", "mosquitto/*", "nginx/*", "caddy/*")


def clean(packages: Path) -> None:
    """Leave out what a node does not need, and the notes of the build; each RECORD says what is left."""
    for pattern in (*LEFT_OUT, *OF_THE_BUILD):
        for path in sorted(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for record in packages.glob("*.dist-info/RECORD"):
        rows = csv.reader(io.StringIO(record.read_text(encoding="utf-8")))
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            sorted(row for row in rows if (packages / row[0]).exists())
        )
        record.write_text(text.getvalue(), encoding="utf-8")


def environment(root: Path) -> None:
    """What makes ``/opt/overlaid`` an environment of /usr/bin/python3.11.

    The sample configuration is in its ``share``. It is no conffile: an upgrade of a box that nobody watches must not
    wait for an answer. postinst copies it once.
    """
    (root / PACKAGES / "share").rename(root / HOME / "share")
    binaries = root / HOME / "bin"
    write(root / HOME / "pyvenv.cfg", ENVIRONMENT)
    write(binaries / "overlaid", COMMAND, 0o755)
    write(binaries / "pip", PIP, 0o755)
    (binaries / "python3.11").symlink_to("/usr/bin/python3.11")
    for name in ("python", "python3"):
        (binaries / name).symlink_to("python3.11")
    link = root / "usr/bin/overlaid"
    link.parent.mkdir(parents=True)
    link.symlink_to("/opt/overlaid/bin/overlaid")


def system_files(root: Path, repo: Path) -> None:
    for source, target in SYSTEM_FILES.items():
        write(root / target, (repo / "systemd" / source).read_text())
    for pattern in EXAMPLES:
        for path in sorted((repo / "systemd").glob(pattern)):
            name = path.relative_to(repo / "systemd")
            write(root / DOC / "examples" / name, path.read_text())


def documents(root: Path, repo: Path, version: str, epoch: int) -> None:
    """Manual pages and completions of the commands, the licences of what is brought."""
    top = tree.whole()
    for name, text in man.pages(top, version, epoch).items():
        write(root / "usr/share/man/man1" / f"{name}.gz", gzip.compress(text.encode(), mtime=0))
    write(root / "usr/share/bash-completion/completions/overlaid", completion.bash(top))
    write(root / "usr/share/zsh/vendor-completions/_overlaid", completion.zsh(top))
    write(root / "usr/share/fish/vendor_completions.d/overlaid.fish", completion.fish(top))
    write(root / DOC / "README.md", (repo / "systemd/README.md").read_text())
    write(
        root / DOC / "copyright", f"{licences(root)}\n\noverlaid itself:\n\n{(repo / 'LICENSE').read_text()}"
    )


def licences(root: Path) -> str:
    """A line for each library; the texts are beside it."""
    lines = []
    for path in sorted((root / PACKAGES).glob("*.dist-info/METADATA")):
        about = Parser().parse(io.StringIO(path.read_text(encoding="utf-8")), headersonly=True)
        stated = about["License-Expression"] or about["License"] or ""
        classified = [
            line.rpartition(" :: ")[2] for line in about.get_all("Classifier", ()) if "License" in line
        ]
        licence = stated.splitlines()[0] if stated else ", ".join(classified) or "see its folder"
        lines.append(f"{about['Name']} {about['Version']}: {licence}")
    return f"Libraries in /{PACKAGES}, each with its licence in NAME.dist-info:\n\n" + "\n".join(lines)


def write(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)


def date(root: Path, epoch: int) -> None:
    """Every file and folder at one time, readable by all, writable by root."""
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)


def files(root: Path) -> Iterator[Path]:
    """Regular files but those for dpkg itself."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.relative_to(root).parts[0] != "DEBIAN":
            yield path


def installed_kib(root: Path) -> int:
    return sum(-(-path.stat().st_size // 1024) for path in files(root))


def md5sums(root: Path) -> str:
    """For ``dpkg --verify``, which knows no other digest."""
    rows = (
        (hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest(), path.relative_to(root))
        for path in files(root)
    )
    return "".join(f"{digest}  {path}\n" for digest, path in rows)

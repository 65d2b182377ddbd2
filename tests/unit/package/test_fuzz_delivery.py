"""The corpus and the first rounds of the fuzzer of delivery (``tests.fuzz.delivery`` goes on from there), and
large inputs that could cost much."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz import delivery
from tests.fuzz.delivery import CORPUS, PARSERS, check, corpus, one_round

MANIFEST = (CORPUS / "manifest" / "small.json").read_bytes()
DESIRED = (CORPUS / "desired" / "page.json").read_bytes()


@pytest.mark.parametrize("name", PARSERS)
def test_the_corpus_is_taken_or_refused_by_name(name: str) -> None:
    outcomes = {check(name, data) for data in corpus(name)}
    assert "taken" in outcomes


@pytest.mark.parametrize("first", range(0, 4000, 500))
def test_damaged_input_is_taken_or_refused_by_name(first: int) -> None:
    for seed in range(first, first + 500):
        one_round(seed)


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()]
    assert max(sizes) < 20_000
    assert sum(sizes) < 400_000


LARGE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "wrong blocks": (
        "manifest",
        lambda: MANIFEST.replace(b'"blocks":[', b'"blocks":[' + b"{}," * 230_000, 1),
    ),
    "wrong files": (
        "manifest",
        lambda: MANIFEST.replace(
            b'"files":{', b'"files":{' + b"".join(b'"f%d":0,' % n for n in range(60_000))
        ),
    ),
    "unknown keys": (
        "manifest",
        lambda: MANIFEST[:-1] + b"".join(b',"k%d":0' % n for n in range(60_000)) + b"}",
    ),
    "one key": ("manifest", lambda: MANIFEST[:-1] + b',"name":"a"' * 60_000 + b"}"),
    "deep": ("manifest", lambda: b"[" * 700_000),
    "a number": ("manifest", lambda: MANIFEST.replace(b'"count":2', b'"count":' + b"9" * 700_000)),
    "wrong models": ("desired", lambda: DESIRED.replace(b'"models": [', b'"models": [' + b"0," * 120_000)),
    "a deep envelope": ("envelope", lambda: b'{"kind":' * 120_000),
    "an envelope's number": ("envelope", lambda: b'{"kind":' + b"9" * 1_000_000 + b"}"),
    "an envelope's keys": ("envelope", lambda: b"{" + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}"),
    "requests": ("blockrequest", lambda: b'{"blocks":[' + b",".join([b'""'] * 87_000) + b"]}"),
    "a repeated request": (
        "blockrequest",
        lambda: b'{"blocks":[' + b",".join([b'"%s"' % (b"0" * 64)] * 3_900) + b"]}",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_the_largest_inputs_take_a_bounded_memory(name: str) -> None:
    """In a process that gets 128 MB on top of what it has."""
    code = (
        "import resource\n"
        "from tests.fuzz.delivery import check\n"
        f"from {__name__} import LARGE\n"
        f"kind, make = LARGE[{name!r}]\n"
        "data = make()\n"
        "have = next(int(l.split()[1]) << 10 for l in open('/proc/self/status') if l.startswith('VmData'))\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (have + (128 << 20),) * 2)\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
        "print(check(kind, data))\n"
    )
    root = Path(delivery.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() in ("taken", "ManifestError", "MessageError")

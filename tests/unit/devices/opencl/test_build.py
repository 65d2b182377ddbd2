"""Kernels compiled once and kept, and compilers that fail."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.devices import building
from agent.devices.opencl import build
from agent.devices.opencl.binary import header_of, pack
from agent.devices.opencl.build import MAX_KEPT, build_program, compile_source, first_error
from agent.devices.opencl.platforms import ClDevice, handle, traits_of
from agent.errors import KernelBuildFailed

SOURCE = "kernel void twice(global int *a) { a[get_global_id(0)] *= 2; }"
BROKEN = SOURCE + "\nkernel void third(global int *a) { a[0] = nowhere; }"


def built(context: Any, cpu: ClDevice, cache: Path | None) -> Any:
    return build_program(context, handle(cpu), cpu, traits_of(cpu), cache)


def compiled(context: Any, cpu: ClDevice, source: str, folder: Path | None) -> Any:
    return compile_source(context, handle(cpu), cpu, [], source, folder, "key")


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One for each time that kernels are compiled: what of them is kept."""
    made: list[Any] = []
    real = build.compile_source

    def counting(*arguments: Any) -> Any:
        made.append(real(*arguments))
        return made[-1]

    monkeypatch.setattr(build, "compile_source", counting)
    return made


def names(program: Any) -> set[str]:
    return set(program.kernel_names.split(";"))


def kept(cache: Path) -> list[Path]:
    return sorted((cache / build.FOLDER).glob("*.clbin"))


def test_kernels_are_built_without_a_folder_to_keep_them(context: Any, cpu: ClDevice) -> None:
    assert {"pack", "unpack", "conv"} <= names(built(context, cpu, None))


def test_kernels_are_compiled_once(
    context: Any, cpu: ClDevice, tmp_path: Path, compilations: list[Any]
) -> None:
    one, two = (built(context, cpu, tmp_path) for _ in range(2))
    assert len(compilations) == 1
    assert names(one) == names(two)
    assert len(kept(tmp_path)) == 1


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign driver", "another's binary", "a folder"])
def test_what_is_kept_and_of_no_use_is_built_again(
    context: Any, cpu: ClDevice, tmp_path: Path, compilations: list[Any], damage: str
) -> None:
    built(context, cpu, tmp_path)
    (path,) = kept(tmp_path)
    whole = path.read_bytes()
    if damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        header = header_of(cpu, traits_of(cpu))
        content = {
            "truncated": whole[:-100],
            "empty": b"",
            "foreign driver": pack(header_of(replace(cpu, driver="2.0"), traits_of(cpu)), b"x"),
            "another's binary": pack(header, b"not what this driver makes"),
        }
        path.write_bytes(content[damage])
    assert "conv" in names(built(context, cpu, tmp_path))
    assert len(compilations) == 2
    if damage != "a folder":
        assert "conv" in names(built(context, cpu, tmp_path))
        assert len(compilations) == 2


def test_a_folder_that_cannot_be_written_does_no_harm(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("in the way")
    assert "conv" in names(built(context, cpu, cache))


def test_a_folder_that_cannot_be_looked_into_does_no_harm(
    context: Any, cpu: ClDevice, tmp_path: Path
) -> None:
    assert "conv" in names(built(context, cpu, tmp_path / ("too long a name" * 20)))


def test_only_the_newest_are_kept(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    folder = tmp_path / build.FOLDER
    folder.mkdir()
    for age in range(MAX_KEPT + 3):
        (folder / f"{age}.clbin").write_bytes(b"")
        os.utime(folder / f"{age}.clbin", (1000 - age, 1000 - age))
    (folder / "build-other.log").write_text("stays: of another kind")
    built(context, cpu, tmp_path)
    left = {path.name for path in folder.iterdir()}
    assert left > {f"{age}.clbin" for age in range(MAX_KEPT - 1)} | {"build-other.log"}
    assert len(left) == MAX_KEPT + 1


def test_workers_that_build_at_once_do_not_disturb_each_other(
    context: Any, cpu: ClDevice, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        programs = list(pool.map(lambda _: built(context, cpu, tmp_path), range(4)))
    assert all("conv" in names(program) for program in programs)
    assert [path.suffix for path in (tmp_path / build.FOLDER).iterdir()] == [".clbin"]


def test_another_source_or_driver_is_another_file(cpu: ClDevice) -> None:
    traits = traits_of(cpu)
    same, other = header_of(cpu, traits), header_of(replace(cpu, driver="4.0"), traits)
    dotted = header_of(cpu, replace(traits, dot=not traits.dot))
    assert header_of(cpu, replace(traits, units=1)) == same
    assert len({same.key, other.key, dotted.key}) == 3


# -- kernels that do not build -----------------------------------------------------------------------------------------


def test_kernels_that_do_not_compile_leave_a_log(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    with pytest.raises(KernelBuildFailed, match="nowhere") as raised:
        compiled(context, cpu, BROKEN, tmp_path)
    log = tmp_path / "build-key.log"
    text = str(raised.value)
    assert cpu.label in text and f"the whole log is in {log};" in text and "update" in text
    assert "\n" not in text and len(text) < 800
    assert "undeclared identifier 'nowhere'" in log.read_text()


def test_without_a_folder_the_log_is_a_temporary_file(
    context: Any, cpu: ClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KernelBuildFailed) as raised:
        compiled(context, cpu, BROKEN, None)
    (log,) = tmp_path.glob("overlaid-opencl-*.log")
    assert str(log) in str(raised.value)
    assert "nowhere" in log.read_text()


def test_temporary_logs_do_not_pile_up(
    context: Any, cpu: ClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "of-others.log").touch()
    for _ in range(MAX_KEPT + 2):
        with pytest.raises(KernelBuildFailed):
            compiled(context, cpu, BROKEN, None)
    assert len(list(tmp_path.glob("overlaid-opencl-*.log"))) == MAX_KEPT
    assert (tmp_path / "of-others.log").exists()


def test_a_log_that_cannot_be_kept_hides_no_reason(
    context: Any, cpu: ClDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(KernelBuildFailed, match=r"nowhere.*; the whole log cannot be kept \(.*; update"):
        compiled(context, cpu, BROKEN, None)


def test_the_line_of_a_log_that_is_shown() -> None:
    assert (
        first_error("a warning\n\n  x.cl:3:  error: no  such thing \nerror: 2")
        == "x.cl:3: error: no such thing"
    )
    assert first_error("internal compiler\nmishap") == "internal compiler"
    assert first_error(" \n") == "it says nothing"
    assert len(first_error("error " * 1000)) == 300


def test_a_card_without_a_binary(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    card = replace(cpu, kind="accelerator")
    with pytest.raises(KernelBuildFailed, match=r"from a binary file only.*overlaid overlay kernels -o"):
        build_program(context, handle(cpu), card, traits_of(card), tmp_path)


def test_only_what_is_compiled_is_announced(context: Any, cpu: ClDevice, tmp_path: Path) -> None:
    told: list[str] = []
    building.listen(told.append)
    try:
        built(context, cpu, tmp_path)
        built(context, cpu, tmp_path)
    finally:
        building.listen(None)
    assert told == [f"the OpenCL kernels for {cpu.name}, once for this driver"]

"""The benches of the RTL's blocks, on each overlay's parameters, and lint of the whole."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.overlay.header import HEADER_NAME, header
from agent.overlay.spec import Overlay, load_spec
from bitstreams import FOLDER
from simulator.overlay.build import RTL, TOP, build, closure, find_tools
from tests.rtl.conftest import OVERLAYS

BENCHES = FOLDER / "npu" / "tb"
BLOCKS = sorted(path.stem.removeprefix("tb_") for path in BENCHES.glob("tb_*.cpp"))
MEMORY = (
    Path(__file__).parents[2] / "simulator" / "overlay" / "ddr.hpp"
)  # which the bench of the top includes
ENGINES = ("npu_load", "npu_store")  # whose benches are those of the small modules that only they have
TIMEOUT_S = 120.0
Programs = dict[tuple[str, str], "Future[Path]"]


@pytest.fixture(scope="module")
def programs() -> Iterator[Programs]:
    """Every bench compiled for every overlay, two at a time: the first test does not wait for the last build."""
    tools = find_tools()
    headers = [*sorted(BENCHES.glob("*.hpp")), MEMORY]
    with ThreadPoolExecutor(2) as pool:

        def start(overlay: str, block: str) -> Future[Path]:
            main = BENCHES / f"tb_{block}.cpp"
            return pool.submit(build, tools, load_spec(overlay), block, main, headers, verilate=("-Wall",))

        yield {(overlay, block): start(overlay, block) for overlay in OVERLAYS for block in BLOCKS}


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_bench(programs: Programs, overlay: str, block: str) -> None:
    """It prints how many checks passed and failed, and ends with 0 when none did. Verilator has nothing to warn of."""
    program = programs[overlay, block].result(TIMEOUT_S)
    done = subprocess.run([program], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert " passed, 0 failed" in done.stdout and not done.stdout.startswith("0 passed")


@pytest.mark.parametrize("module", sorted(path.stem for path in RTL.glob("*.sv")))
def test_every_module_has_a_bench(module: str) -> None:
    """Its own, or that of an engine that it is part of."""
    assert module in BLOCKS or any(module in {path.stem for path in closure(engine)} for engine in ENGINES)


def test_lint(spec: Overlay, tmp_path: Path) -> None:
    """Verilator warns of nothing in the whole core, and every file is part of it."""
    tools = find_tools()
    (tmp_path / HEADER_NAME).write_text(header(spec))
    sources = closure(TOP)
    assert {path.stem for path in sources} == {path.stem for path in RTL.glob("*.sv")}
    command = [
        str(tools.verilator),
        "--lint-only",
        "-Wall",
        "--top-module",
        TOP,
        f"-I{tmp_path}",
        *map(str, sources),
    ]
    done = subprocess.run(
        command,
        env={"VERILATOR_ROOT": str(tools.root)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")

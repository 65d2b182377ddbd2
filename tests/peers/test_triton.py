"""The same requests to a real Triton and to us: the same answers, but for the differences that are listed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.peers import servers
from tests.peers.answers import Answer, ask
from tests.peers.cases import CASES, Case, get, infer, outputs, pair, same, without, y
from tests.peers.differences import DIFFERENCES
from tests.peers.served import same as same_model
from tests.peers.servers import Peer

LISTED = {name: statuses for cases in DIFFERENCES.values() for name, statuses in cases.items()}
SHARED = "shared memory: "


def test_every_listed_difference_is_one_of_a_case() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert len(LISTED) == sum(len(cases) for cases in DIFFERENCES.values())
    assert {name for name in LISTED if not name.startswith(SHARED)} <= set(names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_same_answer(both: tuple[Peer, Peer], case: Case) -> None:
    we, triton = (ask(peer, case) for peer in both)
    if case.name in LISTED:
        assert we != triton, "listed as different, but it is the same now: take it from differences.py"
        assert (we.status, triton.status) == LISTED[case.name]
    else:
        assert we == triton


def test_shared_memory(both: tuple[Peer, Peer]) -> None:
    """Both read inputs from a region and write outputs into it."""
    key = f"/overlaid-peers-{os.getpid()}"
    file = Path(f"/dev/shm{key}")
    file.write_bytes(bytes(64))
    found = {}
    try:
        for case in _shared_memory(key):
            (we, ours_wrote), (triton, triton_wrote) = (_ask_with(file, peer, case) for peer in both)
            assert ours_wrote == triton_wrote, case.name
            if we != triton:
                found[SHARED + case.name] = we.status, triton.status
    finally:
        file.unlink()
    assert found == {name: statuses for name, statuses in LISTED.items() if name.startswith(SHARED)}


def test_classes_of_strings_are_refused(both: tuple[Peer, Peer], tmp_path: Path) -> None:
    """Triton ends when it is asked for them."""
    document = same("BYTES", ["a", "b", "c", "d"], outputs=y(classification=2))
    case = infer("classification of BYTES", document, model="bytes")
    live = get("/v2/health/live")
    assert ask(both[0], case).status == 400
    assert ask(both[0], live).status == 200
    (tmp_path / "triton").mkdir()
    with servers.triton(tmp_path / "triton", [same_model(tmp_path, "BYTES")]) as triton:
        assert ask(triton, case) == ask(triton, live) == Answer(0)


def _ask_with(file: Path, peer: Peer, case: Case) -> tuple[Answer, bytes]:
    """The answer, and what is in the region then, which held 0, 1, 2 … before."""
    with file.open("r+b") as region:
        region.write(np.arange(16, dtype=np.float32).tobytes())
    return ask(peer, case), file.read_bytes()


def _shared_memory(key: str) -> Iterator[Case]:
    """One after the other, of a region of 64 bytes."""
    base = "/v2/systemsharedmemory"

    def call(name: str, path: str, **body: object) -> Case:
        return Case(name, f"{base}/{path}", json.dumps(body).encode())

    def region(offset: object = 0, size: int = 16, name: object = "r") -> dict[str, object]:
        place = {"shared_memory_byte_size": size, "shared_memory_offset": offset}
        return {"parameters": {"shared_memory_region": name, **place}}

    def given(name: str, place: dict[str, object]) -> Case:
        return infer(name, without(pair(place), "data"))

    yield call("register", "region/r/register", key=key, offset=0, byte_size=64)
    yield call("register it again", "region/r/register", key=key, offset=0, byte_size=64)
    yield replace(get(f"{base}/status"), name="status")
    yield replace(get(f"{base}/region/r/status"), name="status of one")
    yield given("an input", region())
    yield given("an input further on", region(offset=48))
    yield infer("an output", outputs({"name": "sum", **region(offset=16)}))
    yield infer("an output in a larger part", outputs({"name": "sum", **region(offset=16, size=20)}))
    yield given("an input beyond the end", region(offset=56))
    yield given("an input of another size", region(size=12))
    yield given("an input far beyond the end", region(offset=1 << 62))
    yield infer("an output's region too small", outputs({"name": "sum", **region(size=12)}))
    yield infer("an output beyond the end", outputs({"name": "sum", **region(offset=60)}))
    yield call("unregister", "region/r/unregister")
    yield given("an input in a region that was there", region())
    yield replace(get(f"{base}/status"), name="status afterwards")

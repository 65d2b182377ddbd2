"""Whatever several clients do in whatever order: the core reads and writes memory of the one that started it alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.devices.fpga_service import fpga, turns
from agent.devices.fpga_service.folders import Place
from agent.devices.fpga_service.fpga import Fpga
from agent.devices.fpga_service.guard import BUSY, DONE, SOFT_RESET, START
from agent.devices.fpga_service.session import Session
from agent.devices.fpga_service.wire import AllocateRequest, FreeRequest, StepsRequest
from agent.errors import DeviceError, OverlayLoadError, OverlayTaken
from agent.hal import Buffer
from agent.overlay.spec import load_spec

NPU = load_spec("npu")
CONTROL, STATUS = NPU.register("CONTROL"), NPU.register("STATUS")
REGIONS = [
    [NPU.register(f"REGION{number}_{part}") for part in ("LOW", "HIGH", "BYTES")] for number in range(4)
]
PAGE = 4096


class Page:
    """Memory that the next one gets when it is free."""

    def __init__(self, core: Core, address: int, nbytes: int) -> None:
        self.address, self.nbytes, self._core = address, nbytes, core

    def write(self, offset: int, data: bytes) -> None:
        pass

    def read(self, offset: int, nbytes: int) -> bytes:
        return bytes(nbytes)

    def close(self) -> None:
        assert not self._core.uses(self.address), "memory is freed that the core uses"
        del self._core.pages[self.address]


class Core:
    """A core that takes its time to end, and to stop."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {}
        self.registers: dict[int, int] = {}
        self.transfers: list[int] = []  # where they go, while it is busy
        self.busy = 0  # looks at STATUS until it has ended
        self.starts = 0
        self.stops = self.loads = True  # whether it does
        self.ended = False

    def uses(self, address: int) -> bool:
        return bool(self.busy) and address in self.transfers

    def regions(self) -> list[tuple[int, int]]:
        held = [[self.registers.get(offset, 0) for offset in region] for region in REGIONS]
        return [(high << 32 | low, nbytes) for low, high, nbytes in held]

    def read32(self, offset: int) -> int:
        if offset != STATUS:
            return self.registers.get(offset, 0)
        self.busy = max(0, self.busy - 1)
        return BUSY if self.busy else DONE * self.ended

    def write32(self, offset: int, value: int) -> None:
        if offset != CONTROL:
            assert not self.busy, "a register changes under a running core"
            self.registers[offset] = value
        elif value & SOFT_RESET:
            self.registers, self.ended = {}, False
            self.busy = self.busy and (2 if self.stops else 1 << 30)
        elif value & START:
            assert not self.busy
            self.busy, self.ended, self.starts = 4, True, self.starts + 1
            self.transfers = [base for base, _ in self.regions()]

    def allocate(self, nbytes: int) -> Buffer:
        address = next(at for at in range(PAGE, 100 * PAGE, PAGE) if at not in self.pages)
        self.pages[address] = Page(self, address, nbytes)
        return self.pages[address]

    def wait(self, timeout_s: float) -> bool:
        return not self.busy

    def give_way(self) -> None:
        pass

    def compute_ends(self) -> Sequence[int]:
        return ()

    def reload(self, folder: Path) -> None:
        if not self.loads:
            raise OverlayLoadError("the FPGA does not take it")
        self.registers, self.busy, self.ended = {}, 2, False
        self.transfers = []

    def close(self) -> None:
        self.pages.clear()


class Client:
    """A session, what its client believes to have, and what it may believe."""

    def __init__(self, lent: Fpga, core: Core, folder: str) -> None:
        place = Place(Path(folder), folder, ())
        self.session = Session(lent, NPU, place, 1, lambda: True)  # it never waits
        self.core, self.buffers = core, dict[int, int]()
        self.ran = False  # since its last reset: it counts on what it has put on the chip
        self.valid = False  # whether that is there

    def do(self, action: str, number: int, others: Sequence[Client]) -> None:
        if action == "allocate":
            answer, _ = self.session.allocate(AllocateRequest(op="allocate", nbytes=64))
            self.buffers[answer["buffer"]] = answer["address"]
        elif action == "free" and self.buffers:
            buffer = list(self.buffers)[number % len(self.buffers)]
            del self.buffers[buffer]
            self.session.free(FreeRequest(op="free", buffer=buffer))
        elif action in ("mine", "theirs"):
            clients = [self] if action == "mine" else others
            known = [address for client in clients for address in client.buffers.values()] or [0]
            low, _, nbytes = REGIONS[number % 4]
            self.steps(("write", low, known[number % len(known)], 0), ("write", nbytes, 64, 0))
        elif action == "reset":
            self.steps(("write", CONTROL, SOFT_RESET, 0))
            self.ran = False
        elif action == "read":
            self.steps(("read", STATUS, 0, 0))
        elif action == "pull" and self.buffers:
            self.steps(("pull", next(iter(self.buffers)), 0, 64))
        elif action == "start":
            self.start(others)

    def start(self, others: Sequence[Client]) -> None:
        before = self.core.starts
        self.steps(("write", CONTROL, START, 0))
        assert self.core.starts == before + 1
        owned = [(address, 64) for address in self.buffers.values()]
        assert all(region in owned or region == (0, 0) for region in self.core.regions())
        assert self.valid or not self.ran, "it runs with another one's weights"
        for other in others:
            other.valid = False
        self.valid = self.ran = True

    def steps(self, *steps: tuple[str, int, int, int]) -> None:
        self.session.steps(StepsRequest.model_validate({"op": "steps", "steps": steps}))


ACTIONS = ("allocate", "free", "mine", "mine", "theirs", "reset", "read", "pull", "start", "start", "end")
RARE = ("stuck", "broken", "stuck end")
EVENTS = st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS * 3 + RARE), st.integers(0, 50))


class Clock:
    """Time that goes on by a tenth of what a core has to stop in, whenever somebody looks: none passes of its own."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += fpga.STOP_S / 10
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture(autouse=True, scope="module")
def impatience() -> Iterator[None]:
    """Turns end as soon as others want them, also while a chain runs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IDLE_S", "CONTESTED_S"):
            patch.setattr(turns, name, 0.0)
        patch.setattr(fpga, "time", Clock())
        yield


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, min_size=10, max_size=80))
def test_no_interleaving_reaches_memory_of_others(events: list[tuple[int, str, int]]) -> None:
    core = Core()
    lent = Fpga(lambda folder: core, lambda place: None)
    clients = [Client(lent, core, folder) for folder in ("npu", "npu", "npu-small")]
    for number, action, value in events:
        client = clients[number]
        others = [each for each in clients if each is not client]
        core.stops, core.loads = "stuck" not in action, action != "broken"
        with contextlib.suppress(DeviceError):
            if "end" in action:
                client.session.close()
                core.stops = True
                clients[number] = Client(lent, core, str(client.session.place.folder))
            else:
                client.do("start" if action in RARE else action, value, others)
    core.stops = core.loads = True
    for client in clients:
        client.session.close()
    assert not core.pages
    assert lent.clients == ()


def test_a_client_is_told_when_another_one_ran() -> None:
    core = Core()
    lent = Fpga(lambda folder: core, lambda place: None)
    first, second = (Client(lent, core, folder) for folder in ("npu", "npu"))
    first.do("start", 0, [second])
    second.do("start", 0, [first])
    for _ in range(2):
        with pytest.raises(OverlayTaken, match="another process ran on the FPGA"):
            first.do("start", 0, [second])
    first.do("reset", 0, [second])
    first.do("start", 0, [second])
    with pytest.raises(OverlayTaken):
        second.do("start", 0, [first])
    assert core.starts == 3


def test_memory_that_a_core_may_still_use_is_kept_until_it_is_loaded_anew() -> None:
    core = Core()
    lent = Fpga(lambda folder: core, lambda place: None)
    first, second = (Client(lent, core, folder) for folder in ("npu", "npu"))
    first.do("allocate", 0, [second])
    first.do("mine", 0, [second])
    first.do("start", 0, [second])
    core.stops = False
    first.session.close()
    assert list(core.pages) == core.transfers[:1]
    assert lent.loaded is None
    core.stops = True
    core.busy = 1 << 30
    second.do("start", 0, [])
    assert not core.pages
    second.session.close()

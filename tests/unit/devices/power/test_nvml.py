"""NVML, played by a library that is compiled here; no GPU has been seen."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.devices.power import open_meters
from agent.errors import MeterError
from agent.hal import PowerMeter
from tests.unit.devices.power.trees import Clock, joules, poll, rapl, unpack

pytestmark = pytest.mark.usefixtures("by_hand")
SOURCE = Path(__file__).with_name("fake_nvml.c")


class Fake:
    """A machine whose driver is loaded, and its library."""

    def __init__(self, library: Path, sysfs: Path) -> None:
        self.library, self.sysfs, self.clock = library, sysfs, Clock()
        self.set = ctypes.CDLL(str(library))
        (sysfs / "module/nvidia").mkdir(parents=True)

    def energy(self, gpu: int, millijoules: int, code: int = 0) -> None:
        self.set.fake_energy(ctypes.c_uint(gpu), ctypes.c_ulonglong(millijoules), code)

    def open(self) -> tuple[tuple[PowerMeter, ...], tuple[str, ...]]:
        return open_meters(self.sysfs, self.clock, self.sysfs / "dev", str(self.library))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def build(*options: str) -> Path:
        target = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-o", target, SOURCE, *options],
            check=True, timeout=60,
        )  # fmt: skip
        return target

    library = build()
    return lambda *options: build(*options) if options else library


@pytest.fixture
def fake(compiled: Callable[..., Path], tmp_path: Path) -> Fake:
    """With a copy of the library, which has state."""
    return Fake(Path(shutil.copy(compiled(), tmp_path / "libnvidia-ml.so.1")), tmp_path / "sys")


def test_the_energy_counter_is_read(fake: Fake) -> None:
    fake.energy(0, 5_000_000_000_000)
    (meter,), problems = fake.open()
    assert (meter.rail, meter.tag, meter.joules(), problems) == ("gpu", "measured", 0.0, ())
    fake.clock.time += 0.5
    fake.energy(0, 5_000_000_040_000)
    poll([meter])
    assert meter.joules() == pytest.approx(40.0)
    fake.clock.time += 0.1
    assert meter.joules() == pytest.approx(48.0)  # 80 W go on
    poll([meter])
    assert meter.joules() == pytest.approx(48.0)


def test_power_where_there_is_no_counter(fake: Fake) -> None:
    fake.energy(0, 0, 3)
    fake.set.fake_power(0, 75_000, 0)
    meters, problems = fake.open()
    assert problems == ()
    assert joules(meters, fake.clock, 2.0) == {"gpu": pytest.approx(150.0)}


def test_power_where_the_library_has_no_such_function(compiled: Callable[..., Path], tmp_path: Path) -> None:
    fake = Fake(compiled("-DWITHOUT_ENERGY"), tmp_path)
    fake.set.fake_power(0, 30_000, 0)
    meters, _ = fake.open()
    assert joules(meters, fake.clock, 1.0) == {"gpu": pytest.approx(30.0)}


def test_several_are_told_apart_beside_the_processor(fake: Fake) -> None:
    fake.set.fake_count(2)
    rapl(fake.sysfs)
    meters, problems = fake.open()
    assert [meter.rail for meter in meters] == ["package-0", "gpu-000000a0", "gpu-000000a1"]
    assert problems == ()


def test_a_driver_that_is_loaded_anew_is_no_jump(fake: Fake) -> None:
    fake.energy(0, 5_000_000_000)
    (meter,), _ = fake.open()
    joules([meter], fake.clock, 1.0)
    fake.energy(0, 10)
    poll([meter])
    fake.clock.time += 0.1
    fake.energy(0, 1_010)
    poll([meter])
    assert meter.joules() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (9, r"gpu: nvmlInit: Driver Not Loaded \(9\); does nvidia-smi work\? .*overlaid-gpu.conf"),
        (4, r"overlaid-gpu.conf opens NVIDIA's devices"),
        (18, r"Driver/library version mismatch \(18\)$"),
        (999, r"Unknown Error \(999\)$"),
    ],
)
def test_a_library_that_does_not_reach_the_driver(fake: Fake, code: int, text: str) -> None:
    fake.set.fake_init(code)
    meters, problems = fake.open()
    assert meters == ()
    (problem,) = problems
    with pytest.raises(MeterError, match=text):
        raise MeterError(problem)


def test_a_driver_without_its_library(tmp_path: Path) -> None:
    (tmp_path / "module/nvidia").mkdir(parents=True)
    meters, (problem,) = open_meters(tmp_path, Clock(), tmp_path, str(tmp_path / "absent.so"))
    assert meters == ()
    assert "absent.so" in problem and "install the package" in problem


def test_a_gpu_that_cannot_be_had(fake: Fake) -> None:
    fake.set.fake_handle(15)
    assert fake.open() == ((), ("no power from gpu: GPU 0: GPU is lost (15)",))


def test_a_gpu_that_shows_no_power(fake: Fake) -> None:
    fake.energy(0, 0, 3)
    fake.set.fake_power(0, 0, 3)
    assert fake.open() == ((), ("no power from gpu: power of gpu: Not Supported (3)",))


def test_a_gpu_that_is_lost_and_comes_back(fake: Fake) -> None:
    (meter,), _ = fake.open()
    joules([meter], fake.clock, 1.0)
    fake.energy(0, 0, 15)
    fake.clock.time += 3.0
    poll([meter])
    with pytest.raises(MeterError, match=r"energy of gpu: GPU is lost \(15\)"):
        meter.joules()
    fake.energy(0, 90_000)
    fake.clock.time += 1.0
    poll([meter])
    assert meter.joules() == pytest.approx(90.0)


def test_a_jetsons_gpu_is_in_its_rails_already(fake: Fake) -> None:
    meters, problems = open_meters(
        unpack("jetson-orin-nano", fake.sysfs), fake.clock, fake.sysfs, str(fake.library)
    )
    assert ([meter.rail for meter in meters], problems) == (["VDD_IN"], ())

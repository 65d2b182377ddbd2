"""Whether this board's FPGA can load overlays: kernel, service, bitstream, pynq."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agent.devices.bitstream import FAMILIES, find_bitstream
from agent.doctor import unit as units
from agent.doctor.finding import Finding, cause_and_cure, ok, problem, unknown, warning
from agent.doctor.subject import Subject
from agent.doctor.unit import Unit
from agent.errors import OverlaidError, one_line

AREA = "overlay"
UNIT = "overlaid-fpga.service"
PYNQ_VENV = Path("/usr/local/share/pynq-venv")  # of PYNQ's images
TESTED_PYNQ = 4
RESTART = f"sudo systemctl restart {UNIT}"
LOOK = f"sudo journalctl -u {UNIT} -n 50"


@dataclass(frozen=True, slots=True)
class Facts:
    """``chip``: the device tree names a Zynq. ``manager``: state of the kernel's FPGA manager, None without one.
    ``bitstreams``: of each overlay that ships, "" or why there is none. ``pynq``: versions in the image's environment.
    ``answer``: "" when overlaid-fpga.service answers, else why not."""

    chip: bool = False
    manager: str | None = None
    unit: Unit | None = None
    bitstreams: dict[str, str] = field(default_factory=dict)
    venv: bool = False
    pynq: str = ""
    answer: str = ""
    refused: bool = False


def look(root: Path = Path("/"), machine: str = platform.machine()) -> Facts:
    """Nothing is loaded."""
    manager = _text(root / "sys/class/fpga_manager/fpga0/state")
    chip = re.search("xlnx,zynq", _text(root / "proc/device-tree/compatible") or "") is not None
    if manager is None and not chip:
        return Facts()
    answer, refused = _ask()
    venv = root / PYNQ_VENV.relative_to("/")
    found = sorted(venv.glob("lib/python3*/site-packages/pynq-*.dist-info"))
    return Facts(
        chip, manager, units.ask(UNIT), _bitstreams(machine), venv.is_dir(),
        found[-1].name.removeprefix("pynq-").removesuffix(".dist-info") if found else "", answer, refused,
    )  # fmt: skip


def _ask() -> tuple[str, bool]:
    from agent.devices.remote_transport import ask_status

    try:
        ask_status()
    except OverlaidError as error:
        return one_line(error), isinstance(error.__cause__, PermissionError)
    return "", False


def _bitstreams(machine: str) -> dict[str, str]:
    from bitstreams import FOLDER

    found = {}
    for path in sorted(FOLDER.glob("*/overlay.toml")):
        try:
            find_bitstream(path.parent, machine)
            found[path.parent.name] = ""
        except OverlaidError as error:
            found[path.parent.name] = one_line(error)
    return found


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def judge(facts: Facts, subject: Subject) -> list[Finding]:
    if facts.manager is None and not facts.chip:
        return [ok(AREA, "this machine has no FPGA")]
    found = [*_of_kernel(facts), *_of_service(facts, subject), *_of_bitstreams(facts), *_of_pynq(facts)]
    return found or [ok(AREA, "the FPGA can be lent, and there is a bitstream for it")]


def _of_kernel(facts: Facts) -> Iterator[Finding]:
    if facts.manager is None:
        yield problem(
            AREA, "the kernel has no FPGA manager", "this is a Zynq, and /sys/class/fpga_manager is empty",
            "sudo modprobe zynq-fpga || sudo modprobe zynqmp-fpga; else a kernel with CONFIG_FPGA_MGR_ZYNQ_FPGA",
        )  # fmt: skip
    elif "error" in facts.manager:
        yield problem(
            AREA, f"the FPGA manager reports: {facts.manager}",
            "the last bitstream was not taken: it may be for another chip, or damaged",
            f"sudo dmesg | grep -i fpga; {RESTART}",
        )  # fmt: skip


def _of_service(facts: Facts, subject: Subject) -> Iterator[Finding]:
    unit = facts.unit
    if facts.refused:
        yield unknown(AREA, f"{UNIT} cannot be asked", facts.answer, subject.again)
    elif unit is not None and unit.load == "not-found":
        yield warning(
            AREA, f"{UNIT} is not installed", "without it nobody lends the FPGA to the workers",
            f"sudo install -D -m 644 systemd/{UNIT} /etc/systemd/system/{UNIT} && sudo systemctl daemon-reload && "
            f"sudo systemctl enable --now {UNIT}",
        )  # fmt: skip
    elif unit is not None and "masked" in (unit.load, unit.enabled):
        yield problem(
            AREA, f"{UNIT} is masked", "somebody forbade systemd to start it",
            f"sudo systemctl unmask {UNIT} && sudo systemctl enable --now {UNIT}",
        )  # fmt: skip
    elif facts.answer:
        cause, _ = cause_and_cure(facts.answer)
        state = f"the unit is {unit.active} ({unit.result})" if unit else "systemd does not run here"
        yield problem(AREA, cause, state, f"{RESTART}; {LOOK}")


def _of_bitstreams(facts: Facts) -> Iterator[Finding]:
    if facts.bitstreams and all(facts.bitstreams.values()):
        family = FAMILIES.get(platform.machine(), platform.machine())
        first = cause_and_cure(next(iter(facts.bitstreams.values())))[0]
        yield problem(
            AREA, f"there is no bitstream for this chip ({family})", first,
            "with Vivado: vivado -mode batch -source bitstreams/npu/vivado/build.tcl -tclargs pynq-z2 npu; "
            "then copy its release/ here",
        )  # fmt: skip


def _of_pynq(facts: Facts) -> Iterator[Finding]:
    pip = f"sudo {PYNQ_VENV}/bin/pip install"
    if not facts.venv:
        yield problem(
            AREA, f"{PYNQ_VENV} is not there", f"{UNIT} runs in it; PYNQ's images bring it",
            "a PYNQ image (3.x or 4.0), or Kria-PYNQ: docs/fpga.md",
        )  # fmt: skip
    elif not facts.pynq:
        yield problem(
            AREA, f"pynq is not in {PYNQ_VENV}", f"{UNIT} drives the FPGA with it", f"{pip} 'pynq==4.0.0'"
        )
    elif not re.match(r"\d+", facts.pynq) or int(facts.pynq.partition(".")[0]) < TESTED_PYNQ:
        yield warning(
            AREA, f"pynq {facts.pynq} is older than the {TESTED_PYNQ}.0 that overlaid was tried with",
            "it may want another pydantic", f"{pip} 'overlaid[fpga]'",
        )  # fmt: skip

"""FPGA cards that OpenCL offers, each with the kernels as a binary that its vendor's compiler made.

One binary runs the programs of every overlay. ``python -m agent.devices.opencl.cards`` looks for cards, with the id of
one it proves that card, so that a driver that crashes or hangs takes nothing else along.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from agent.devices.opencl.platforms import ClDevice, find_devices, traits_of
from agent.devices.proving import prove_in_processes, tell_outcome
from agent.errors import DeviceLost, KernelBuildFailed, RuntimeUnavailable
from agent.hal import ModelFile, Session
from agent.types import BackendInfo, DeviceInfo, to_jsonable

BACKEND, FORMATS = "opencl", ("npu",)
FOLDER, VARIABLE = Path("/etc/overlaid/opencl"), "OVERLAID_OPENCL_BINARIES"
LOOK_TIMEOUT_S, PROOF_TIMEOUT_S = 8.0, 15.0  # both within the time for probing a board


@dataclass(frozen=True, slots=True)
class Card:
    """A card and the binary that runs on it; a ``hal.Device``. ``id``: ``card``; ``card0``, ``card1`` where OpenCL
    offers several, with a binary or without."""

    id: str
    device: ClDevice
    binary: Path

    @property
    def info(self) -> DeviceInfo:
        """See ``hal.Device.info``; the version is that of the driver's OpenCL."""
        backends = (BackendInfo(BACKEND, self.device.runtime, FORMATS),)
        memory_mb = self.device.memory_bytes >> 20
        return DeviceInfo(self.id, "fpga", self.device.label, backends, memory_mb=memory_mb)

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``; KernelBuildFailed when the card does not take the binary."""
        if backend != BACKEND or model.format not in FORMATS:
            raise RuntimeUnavailable(
                f"{self.id} opens {', '.join(FORMATS)} by {BACKEND}, not {model.format} by {backend}"
            )
        from agent.devices.opencl.engine import OpenClEngine
        from agent.devices.program import ProgramSession

        return ProgramSession(
            model, lambda program: OpenClEngine(program, self.device, model.threads, model.cache, self.binary)
        )


def find_cards() -> tuple[list[DeviceInfo], list[str]]:
    """The cards that answered the overlays' self-test, and why others are not usable. Takes seconds; raises nothing."""
    if importlib.util.find_spec("pyopencl") is None:
        return [], []
    module = "agent.devices.opencl.cards"
    looked = prove_in_processes({"look": (module,)}, LOOK_TIMEOUT_S)["look"]
    if looked.problem:  # of OpenCL as a whole, which the CPU's and the GPU's runtimes tell as well
        return [], []
    told = json.loads(looked.version)
    cards = TypeAdapter(list[DeviceInfo]).validate_python(told["cards"])
    proofs = prove_in_processes({card.id: (module, card.id) for card in cards}, PROOF_TIMEOUT_S)
    problems = [f"{card.id}: {proofs[card.id].problem}" for card in cards if proofs[card.id].problem]
    return [card for card in cards if not proofs[card.id].problem], [*told["problems"], *problems]


def open_card(card_id: str) -> Card:
    """For the process that uses it. DeviceLost when OpenCL offers no such card, RuntimeUnavailable without a binary."""
    cards, problems = look(find_devices()[0], folder())
    found = next((card for card in cards if card.id == card_id), None)
    if found is None:
        why = next((text for text in problems if text.startswith(f"{card_id}: ")), "")
        if why:
            raise RuntimeUnavailable(why)
        raise DeviceLost(
            f"OpenCL offers no FPGA card {card_id}; see overlaid devices, and the kernel's log (dmesg)"
        )
    return found


def look(devices: Sequence[ClDevice], binaries: Path) -> tuple[list[Card], list[str]]:
    """The accelerators among ``devices`` with a binary in the folder ``binaries``, and why others are not usable."""
    accelerators = [device for device in devices if device.kind == "accelerator"]
    cards: list[Card] = []
    problems: list[str] = []
    for number, device in enumerate(accelerators):
        card_id = f"card{number}" if len(accelerators) > 1 else "card"
        binary, why = find_binary(device, binaries)
        if binary is None:
            problems.append(f"{card_id}: {why}")
        else:
            cards.append(Card(card_id, device, binary))
    return cards, problems


def find_binary(device: ClDevice, binaries: Path) -> tuple[Path | None, str]:
    """The first file in the folder that is for the device; else None and why, with what to do."""
    from agent.devices.opencl.binary import SUFFIX
    from agent.devices.opencl.build import read_binary

    refused = []
    for path in sorted(binaries.glob(f"*{SUFFIX}")):
        try:
            read_binary(path, device, traits_of(device))
            return path, ""
        except KernelBuildFailed as error:
            refused.append(str(error))
    return None, "; ".join(refused) or (
        f"{device.label} runs kernels from a binary file only, and {binaries} has none for it: build what `overlaid "
        "overlay kernels --source DIR` writes with the compiler of its vendor, then: overlaid overlay kernels "
        f"--device {shlex.quote(device.name)} --pack BUILT -o {binaries / f'card{SUFFIX}'}"
    )


def folder() -> Path:
    """Where binaries are looked for."""
    return Path(os.environ.get(VARIABLE) or FOLDER)


def _tell() -> str:
    cards, problems = look(find_devices()[0], folder())
    return json.dumps({"cards": [to_jsonable(card.info) for card in cards], "problems": problems})


def _prove(card_id: str) -> str:
    from agent.devices.opencl.session import prove

    card = open_card(card_id)
    return prove(card.device, card.binary)


if __name__ == "__main__":
    tell_outcome(_tell if len(sys.argv) < 2 else lambda: _prove(sys.argv[1]))

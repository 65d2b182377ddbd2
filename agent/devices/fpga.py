"""An FPGA that runs overlay programs: loads overlays through a named transport and drives them.

This module is light; numpy is imported when a program is opened.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import ModelLoadError, RuntimeUnavailable, one_line
from agent.hal import ModelFile, Session
from agent.types import PROGRAMS, SELF_TEST, BackendInfo, DeviceInfo, OverlayRef

if TYPE_CHECKING:
    from agent.devices.slot import Slot
    from agent.overlay.program import Program

FPGA_BACKENDS = (BackendInfo(PROGRAMS, "1", ("npu",)), BackendInfo(SELF_TEST, "1", ("overlay",)))


def shipped_overlays(names: Iterable[str]) -> tuple[OverlayRef, ...]:
    """Those of the overlays called ``names`` that ship with the agent."""
    from agent.overlay.spec import load_spec

    specs = [load_spec(name) for name in names]
    return tuple(OverlayRef(spec.id, spec.version, spec.lanes) for spec in specs)


class FpgaDevice:
    """See ``hal.Device``. ``transport``: an entry point of ``overlaid.transports``.

    The programs of all its sessions share one overlay; a run of a program that needs another one loads that first.
    One object for each FPGA in a process. ``folder``: where delivered overlays are unpacked and stay; None: a temporary
    folder, which goes with the last session.
    """

    def __init__(self, device_id: str, name: str, transport: str, folder: Path | None = None) -> None:
        self._id, self._name, self._transport, self._base = device_id, name, transport, folder
        self._slot: Slot | None = None

    @property
    def info(self) -> DeviceInfo:
        """See ``hal.Device.info``."""
        return DeviceInfo(self._id, "fpga", self._name, FPGA_BACKENDS)

    def open(self, model: ModelFile, backend: str) -> Session:
        """See ``hal.Device.open``; OverlayLoadError, ProgramError."""
        backends = {info.name: info.formats for info in FPGA_BACKENDS}
        if backend not in backends:
            raise RuntimeUnavailable(
                f"{self._id} has no backend {backend!r}; there are {', '.join(backends)}"
            )
        if model.format not in backends[backend]:
            raise RuntimeUnavailable(f"{backend} opens {', '.join(backends[backend])}, not {model.format}")
        if model.format == "overlay":
            return self._open(self._self_test(model), self._folder(model.path))
        return self._open(model, self._folder(model.overlay) if model.overlay else None)

    def _open(self, model: ModelFile, folder: Path | None) -> Session:
        """``folder``: the overlay to load; None: the one of the program's name that ships with the agent."""
        from agent.devices.program import ProgramSession
        from agent.devices.slot import OverlayEngine
        from agent.overlay.spec import overlay_folder, read_spec

        slot = self._its_slot()

        def open_engine(program: Program) -> OverlayEngine:
            return OverlayEngine(slot, folder or overlay_folder(program.overlay), program)

        return ProgramSession(model, open_engine, read_spec(folder) if folder else None)

    def _its_slot(self) -> Slot:
        from agent.devices.slot import Slot

        self._slot = self._slot or Slot(self._transport)
        return self._slot

    def _self_test(self, model: ModelFile) -> ModelFile:
        from agent.overlay.archive import SELF_TEST_NAME

        path = self._folder(model.path) / SELF_TEST_NAME
        return ModelFile(path, "npu", model.inputs, model.outputs, model.threads)

    def _folder(self, archive: Path) -> Path:
        """Where a delivered overlay lies unpacked; the same for equal archives."""
        from agent.overlay.archive import unpack_archive

        try:
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelLoadError(
                f"{archive.name} cannot be read: {one_line(error)}; deploy it again"
            ) from error
        if self._base is None:
            self._base = Path(tempfile.mkdtemp(prefix="overlaid-overlays-"))
            # The slot lives as long as a session does, and loads overlays from there again.
            weakref.finalize(self._its_slot(), shutil.rmtree, self._base, ignore_errors=True)
        folder = self._base / digest
        if not folder.exists():
            unpack_archive(archive, folder)
        return folder

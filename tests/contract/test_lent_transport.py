"""The contract of every transport, for one that overlaid-fpga.service lends: nothing that a driver does is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.hal import OverlayTransport
from agent.overlay.spec import Overlay, overlay_folder
from agent.overlay.transports import find_transport
from tests.contract import test_transport as contract
from tests.unit.devices.fpga_lending import copy_overlay, lending

spec, core, segment, answers = contract.spec, contract.core, contract.segment, contract.answers

test_registers_tell_which_overlay_it_is = contract.test_registers_tell_which_overlay_it_is
test_registers_keep_what_is_written = contract.test_registers_keep_what_is_written
test_an_offset_without_a_register_reads_0 = contract.test_an_offset_without_a_register_reads_0
test_buffers = contract.test_buffers
test_a_chain_moves_bytes_and_interrupts = contract.test_a_chain_moves_bytes_and_interrupts
test_without_interrupts_enabled_there_is_none = contract.test_without_interrupts_enabled_there_is_none
test_an_error_ends = contract.test_an_error_has_a_code_and_an_index_and_a_reset_ends_it
test_the_watchdog_ends = contract.test_the_watchdog_ends_a_chain_that_waits_for_nothing
test_after_close_it_is_lost = contract.test_after_close_it_is_lost
test_the_driver_runs_programs = contract.test_the_driver_runs_programs
test_samples_that_overlap = contract.test_samples_that_overlap_give_the_same_bytes
test_the_driver_ends_what_hangs = contract.test_the_driver_ends_what_hangs
test_whole_models = contract.test_whole_models_give_the_bytes_of_the_golden_model


@pytest.fixture
def name() -> str:
    return "remote"


@pytest.fixture
def opened(name: str, spec: Overlay, tmp_path: Path) -> Iterator[OverlayTransport]:
    folder = copy_overlay(overlay_folder(spec.id).name, tmp_path)
    with lending(tmp_path):
        transport = find_transport(name)(folder)
        yield transport
        transport.close()

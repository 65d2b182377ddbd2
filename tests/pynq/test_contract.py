"""The contract of every transport, for the transport ``pynq`` on a board that is not there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.devices.pynq_transport import open_transport
from agent.hal import OverlayTransport
from agent.overlay.spec import Overlay
from tests.contract import test_transport as contract
from tests.pynq.board import Board
from tests.pynq.conftest import QUIET, make_release
from tests.pynq.handoff import Design

pytestmark = QUIET
spec, core, segment, answers = contract.spec, contract.core, contract.segment, contract.answers

test_registers_tell_which_overlay_it_is = contract.test_registers_tell_which_overlay_it_is
test_registers_keep_what_is_written = contract.test_registers_keep_what_is_written
test_an_offset_without_a_register_reads_0 = contract.test_an_offset_without_a_register_reads_0
test_buffers = contract.test_buffers
test_a_chain_moves_bytes_and_interrupts = contract.test_a_chain_moves_bytes_and_interrupts
test_without_interrupts_enabled_there_is_none = contract.test_without_interrupts_enabled_there_is_none
test_an_error_ends = contract.test_an_error_has_a_code_and_an_index_and_a_reset_ends_it
test_the_watchdog_ends = contract.test_the_watchdog_ends_a_chain_that_waits_for_nothing
test_samples_that_overlap = contract.test_samples_that_overlap_give_the_same_bytes
test_after_close_it_is_lost = contract.test_after_close_it_is_lost


@pytest.fixture
def opened(board: Board, spec: Overlay, tmp_path: Path) -> Iterator[OverlayTransport]:
    transport = open_transport(make_release(tmp_path / spec.id, Design(spec.id)))
    yield transport
    transport.close()

from __future__ import annotations

import pytest

from agent.errors import ModelLoadError
from simulator.speed import run_seconds
from simulator.work import Work
from tests.unit.simulator.small import CPU, FPGA, GPU, small_board

DEVICES = small_board().devices


@pytest.mark.parametrize(
    ("device", "work", "batch", "seconds"),
    [
        (CPU, Work(5_000_000, 0, "fp32"), 1, 0.001 + 0.005),  # bound by arithmetic
        (CPU, Work(5_000_000, 0, "int8"), 1, 0.001 + 0.005 / 4),
        (CPU, Work(5_000_000, 9_000_000, "fp32"), 1, 0.001 + 0.009),  # bound by memory
        (CPU, Work(5_000_000, 9_000_000, "fp32"), 4, 0.001 + 4 * 0.009),  # the overhead is paid once
        (CPU, Work(0, 0, "fp32"), 1, 0.001),
        (GPU, Work(20_000_000, 0, "fp16"), 1, 0.002 + 0.001),
        (GPU, Work(20_000_000, 0, "int8"), 1, 0.002 + 0.001),  # not in its list: the next one up
        (CPU, Work(1_000_000, 0, "fp16"), 1, 0.001 + 0.001),
        (FPGA, Work(8_000_000, 0, "int8"), 1, 0.0005 + 0.001),
        (FPGA, Work(0, 2_000_000, "fp32"), 1, 0.0005 + 0.002),  # no MACs fit everywhere
    ],
)
def test_a_run_is_bound_by_arithmetic_or_memory(device: int, work: Work, batch: int, seconds: float) -> None:
    assert run_seconds(DEVICES[device], work, batch) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("device", "precision", "text"),
    [
        (FPGA, "fp32", "fpga computes in int8; the model is fp32: quantise it"),
        (FPGA, "fp16", "fpga computes in int8; the model is fp16"),
        (GPU, "fp32", "gpu computes in fp16; the model is fp32"),
    ],
)
def test_a_precision_that_a_device_has_not(device: int, precision: str, text: str) -> None:
    with pytest.raises(ModelLoadError, match=text):
        run_seconds(DEVICES[device], Work(1, 1, precision))

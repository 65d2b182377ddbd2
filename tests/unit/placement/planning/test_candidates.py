from __future__ import annotations

from agent.placement.planning.candidates import VariantInfo, candidates_for, short
from agent.types import PROGRAMS, BackendInfo, BoardInfo, Candidate, DeviceInfo, OverlayRef

FP32, INT8 = Candidate("fp32", "onnxruntime", "cpu"), Candidate("int8", "onnxruntime", "cpu")


def test_candidates_are_variants_on_backends_that_open_them() -> None:
    cpu = DeviceInfo(
        "cpu", "cpu", "EPYC",
        (BackendInfo("onnxruntime", "1", ("onnx",)), BackendInfo("litert", "2", ("tflite",))),
    )  # fmt: skip
    fpga = DeviceInfo("fpga0", "fpga", "Zynq", ())
    variants = [
        VariantInfo("fp32", "onnx", "fp32", ("cpu", "gpu"), 0.98),
        VariantInfo("int8", "onnx", "int8", ("cpu",), 0.97),
        VariantInfo("lite", "tflite", "int8", ("cpu", "fpga"), 0.97),
    ]
    candidates, verdicts = candidates_for(variants, BoardInfo("b", False, (cpu, fpga)))
    assert set(candidates) == {FP32, INT8, Candidate("lite", "litert", "cpu")}
    reasons = {(v.candidate.variant, v.candidate.device): v.reason for v in verdicts}
    assert reasons == {
        ("fp32", "fpga0"): "made for cpu, gpu; fpga0 is a fpga",
        ("int8", "fpga0"): "made for cpu; fpga0 is a fpga",
        ("lite", "fpga0"): "fpga0 has no runtime for tflite; it has no runtime",
    }
    assert not any(verdict.chosen for verdict in verdicts)


def test_a_missing_runtime_is_named() -> None:
    cpu = DeviceInfo("cpu", "cpu", "ARMv7", (BackendInfo("litert", "2.14", ("tflite",)),))
    candidates, (verdict,) = candidates_for(
        [VariantInfo("fp32", "onnx", "fp32", ("cpu",), None)], BoardInfo("b", False, (cpu,))
    )
    assert candidates == ()
    assert verdict.reason == "cpu has no runtime for onnx; it has litert (tflite)"


def test_an_overlay_that_is_not_here_is_named_until_it_is_delivered() -> None:
    shipped, other = OverlayRef("npu", 1, 16), OverlayRef("npu-small", 1, 8)
    backends = (BackendInfo(PROGRAMS, "1", ("npu",)),)
    board = BoardInfo("b", False, (DeviceInfo("fpga", "fpga", "Zynq", backends, overlays=(shipped,)),))
    variant = VariantInfo("int8", "npu", "int8", ("fpga",), None, other)
    none, (verdict,) = candidates_for([variant], board)
    assert none == () and verdict.reason == (
        "needs overlay npu-small version 1 (8 x 8 MAC); fpga has npu version 1 (16 x 16 MAC): "
        "deploy a package of that overlay first"
    )
    assert candidates_for([variant], board, {other})[0] == (Candidate("int8", PROGRAMS, "fpga"),)


def test_opencl_runs_programs_of_any_overlay() -> None:
    opencl = (BackendInfo("opencl", "3.0", ("npu",)),)
    devices = [DeviceInfo(kind, kind, "a device", opencl) for kind in ("fpga", "gpu", "cpu")]
    variant = VariantInfo("npu", "npu", "int8", ("fpga", "gpu", "cpu"), None, OverlayRef("mine", 7, 8))
    found, verdicts = candidates_for([variant], BoardInfo("b", False, tuple(devices)))
    assert {str(each) for each in found} == {f"npu on {kind} (opencl)" for kind in ("fpga", "gpu", "cpu")}
    assert verdicts == ()


def test_every_backend_that_opens_a_variant_is_a_candidate() -> None:
    runtimes = tuple(BackendInfo(name, "1", ("npu",)) for name in ("program", "opencl"))
    cpu = DeviceInfo("cpu", "cpu", "EPYC", runtimes)
    found, _ = candidates_for(
        [VariantInfo("npu", "npu", "int8", ("cpu",), None)], BoardInfo("b", False, (cpu,))
    )
    assert [str(each) for each in found] == ["npu on cpu (opencl)", "npu on cpu (program)"]


def test_the_runtime_is_named_where_nothing_else_tells_candidates_apart() -> None:
    numpy, opencl = Candidate("npu", "program", "cpu"), Candidate("npu", "opencl", "cpu")
    fpga = Candidate("npu", PROGRAMS, "fpga")
    assert short(numpy, [numpy, fpga, FP32]) == "npu on cpu"
    assert short(numpy, [numpy, opencl, fpga]) == "npu on cpu (program)"
    assert short(fpga, [numpy, opencl, fpga]) == "npu on fpga"
    assert short(numpy, []) == "npu on cpu"

"""A model small enough for thousands of deployments: y = factor * x, each version with a factor of its own."""

from __future__ import annotations

from pathlib import Path

NAME = "m"
FACTORS = {f"1.0.{number}": float(2 + number) for number in range(5)}
WEIGHTS = 100_000  # that nobody uses: some blocks to send


def write_versions(folder: Path) -> list[Path]:
    """Model folders that ``overlaid fleet pack`` takes."""
    return [_write(folder / f"m-{version}", version, factor) for version, factor in FACTORS.items()]


def _write(folder: Path, version: str, factor: float) -> Path:
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True)
    ballast = np.random.default_rng(int(factor)).standard_normal(WEIGHTS).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "k"], ["scaled"]),
            helper.make_node("ReduceSum", ["ballast"], ["sum"], keepdims=0),
            helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
            helper.make_node("Add", ["scaled", "nothing"], ["y"]),
        ],
        NAME,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor("k", TensorProto.FLOAT, [], [factor]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            numpy_helper.from_array(ballast, "ballast"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / "m.onnx"))
    samples = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.save(folder / "x.npy", samples)
    np.save(folder / "y.npy", samples * np.float32(factor))
    (folder / "model.toml").write_text(
        f'name = "{NAME}"\nversion = "{version}"\nlicence = "none"\n'
        '[[inputs]]\nname = "x"\ndtype = "FP32"\nshape = [-1, 4]\n'
        '[[outputs]]\nname = "y"\ndtype = "FP32"\nshape = [-1, 4]\n'
        '[golden]\ncount = 2\ninputs = { x = "x.npy" }\n'
        '[[variants]]\nname = "fp32"\nformat = "onnx"\nprecision = "fp32"\ndevices = ["cpu"]\n'
        'accuracy = 1.0\nfile = "m.onnx"\ngolden = { outputs = { y = "y.npy" }, atol = 1e-4, rtol = 1e-4 }\n'
    )
    return folder

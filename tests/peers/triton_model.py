"""A model of Triton's Python backend: ONNX Runtime, as our workers run it. Runs inside Triton."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The interface that Triton looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        file = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        config = json.loads(args["model_config"])
        self._inputs, self._outputs = (
            [each["name"] for each in config[side]] for side in ("input", "output")
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensors = {
            name: _text(triton.get_input_tensor_by_name(request, name).as_numpy()) for name in self._inputs
        }
        wanted = request.requested_output_names()
        names = [name for name in self._outputs if name in wanted]
        try:
            arrays = self._session.run(names, tensors)
        except Exception as error:
            return triton.InferenceResponse([], triton.TritonError(str(error)))
        return triton.InferenceResponse(
            [triton.Tensor(name, array) for name, array in zip(names, arrays, strict=True)]
        )


def _text(array: Any) -> Any:
    """ONNX Runtime takes strings as ``str``."""
    if array.dtype != object:
        return array
    return np.array([each.decode() for each in array.ravel()], object).reshape(array.shape)

"""A run whose tensors stay in the GPU's memory: ONNX Runtime's I/O binding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.devices.tensors import DTYPES
from agent.hal.device import Tensors
from agent.types import TensorSpec


class Binding:
    """Inputs in memory that is allocated once per batch size and filled in place; outputs are copied back once."""

    def __init__(
        self,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        memory: str,
        index: int,
    ) -> None:
        """``memory``, ``index``: ONNX Runtime's name and number of the device. Allocates nothing yet."""
        self._session, self._inputs, self._outputs = session, tuple(inputs), tuple(outputs)
        self._memory, self._index = memory, index
        self._batch: int | None = None
        self._values: dict[str, Any] = {}
        self._binding: Any = None

    def run(self, tensors: Tensors, batch: int) -> list[NDArray[Any]]:
        """The outputs in the order of their specs. The runtime's own errors."""
        if batch != self._batch:
            self._allocate(batch)
        for name, value in self._values.items():
            value.update_inplace(tensors[name])
        for spec in self._outputs:
            if spec.dynamic:  # the runtime would write into the last run's output, whatever its size now
                self._binding.bind_output(spec.name, self._memory, self._index)
        self._session.run_with_iobinding(self._binding)
        return [np.asarray(array) for array in self._binding.copy_outputs_to_cpu()]

    def _allocate(self, batch: int) -> None:
        from onnxruntime import OrtValue

        self._batch, self._values, self._binding = None, {}, None  # free the old ones first
        binding, values = self._session.io_binding(), {}
        for spec in self._inputs:
            values[spec.name] = OrtValue.ortvalue_from_shape_and_type(
                list(spec.concrete(batch)), DTYPES[spec.dtype].type, self._memory, self._index
            )
            binding.bind_ortvalue_input(spec.name, values[spec.name])
        for spec in self._outputs:
            binding.bind_output(spec.name, self._memory, self._index)
        self._batch, self._values, self._binding = batch, values, binding

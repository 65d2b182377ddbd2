"""What a worker says about its model: the protocol's metadata, and what of Triton's model configuration means something
here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.serving.spec import WorkerSpec
from agent.serving.worker.batches import joinable
from agent.types import TensorSpec

KINDS = {
    "cpu": "KIND_CPU",
    "gpu": "KIND_GPU",
}  # by the beginning of a device's id; others are the model's own affair
STRINGS = "BYTES"


def metadata(spec: WorkerSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The answer to GET /v2/models/NAME."""
    return {
        "name": spec.model,
        "versions": [spec.version],
        "platform": _platform(spec),
        "inputs": [_tensor(tensor) for tensor in inputs],
        "outputs": [_tensor(tensor) for tensor in outputs],
    }


def config(spec: WorkerSpec, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> dict[str, Any]:
    """The answer to GET /v2/models/NAME/config.

    ``max_batch_size``: samples that one request may bring, 0 for a model without a free first dimension in every
    tensor; as with Triton, ``dims`` are without that dimension where it is not 0. ``dynamic_batching`` is there where
    requests that wait are run together.
    """
    batched = joinable(inputs, outputs)
    answer: dict[str, Any] = {
        "name": spec.model,
        "platform": _platform(spec),
        "backend": spec.candidate.backend,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": _most_samples(spec, inputs) if batched else 0,
        "input": [_entry(tensor, batched) for tensor in inputs],
        "output": [_entry(tensor, batched) for tensor in outputs],
        "instance_group": [
            {"name": spec.candidate.device, "kind": _kind(spec.candidate.device), "count": spec.instances}
        ],
        "parameters": {
            key: {"string_value": value}
            for key, value in (
                ("variant", spec.candidate.variant),
                ("device", spec.candidate.device),
                ("digest", spec.digest),
                ("max_body_bytes", str(spec.max_body_bytes)),
            )
        },
    }
    if spec.max_batch > 1:
        answer["dynamic_batching"] = {
            "preferred_batch_size": [spec.max_batch],
            "max_queue_delay_microseconds": 0,
        }
    return answer


def _platform(spec: WorkerSpec) -> str:
    return f"{spec.candidate.backend}_{spec.file.format}"


def _kind(device: str) -> str:
    return next((kind for prefix, kind in KINDS.items() if device.startswith(prefix)), "KIND_MODEL")


def _most_samples(spec: WorkerSpec, inputs: Sequence[TensorSpec]) -> int:
    return max(1, min(2**31 - 1, spec.max_body_bytes // sum(tensor.nbytes() for tensor in inputs)))


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.dtype, "shape": list(spec.shape)}


def _entry(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    kind = "STRING" if spec.dtype == STRINGS else spec.dtype
    return {
        "name": spec.name,
        "data_type": f"TYPE_{kind}",
        "dims": list(spec.shape[1:] if batched else spec.shape),
    }

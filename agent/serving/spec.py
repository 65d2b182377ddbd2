"""What a worker process is started with: one candidate of one version of a model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent.hal import ModelFile
from agent.types import Candidate, TensorSpec, to_jsonable


@dataclass(frozen=True, slots=True)
class Golden:
    """``count`` samples, one raw little-endian file per tensor (C order; a free first dimension is 1).

    An output agrees when ``|got - want| <= atol + rtol * |want|`` for every element.
    """

    count: int
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    atol: float
    rtol: float


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """``digest``: the package's; ``board_folder``: see ``hal.Board``; ``max_body_bytes``: larger request bodies are
    refused with 413; ``memory_mb``: MiB of data at most (0: any); ``instances``: runs at the same time; ``max_batch``:
    requests that one run may answer."""

    model: str
    version: str
    digest: str
    board: str
    board_folder: Path
    candidate: Candidate
    file: ModelFile
    golden: Golden
    max_body_bytes: int
    memory_mb: int = 1024
    instances: int = 1
    max_batch: int = 1

    def __str__(self) -> str:
        return f"{self.model}@{self.version} ({self.candidate})"

    def to_json(self) -> bytes:
        """For the worker; paths become absolute because it runs in another directory."""
        golden = replace(self.golden, inputs=dict(self.golden.inputs), outputs=dict(self.golden.outputs))
        return json.dumps(to_jsonable(replace(self, golden=golden)), default=_absolute).encode()

    @classmethod
    def from_json(cls, data: bytes) -> WorkerSpec:
        """Inverse of ``to_json``; KeyError, TypeError or ValueError for anything else."""
        value: dict[str, Any] = json.loads(data)
        golden, file = value.pop("golden"), value.pop("file")
        return cls(
            board_folder=Path(value.pop("board_folder")),
            candidate=Candidate(**value.pop("candidate")),
            file=ModelFile(
                path=Path(file.pop("path")),
                overlay=Path(overlay) if (overlay := file.pop("overlay")) else None,
                cache=Path(cache) if (cache := file.pop("cache")) else None,
                inputs=_tensors(file.pop("inputs")),
                outputs=_tensors(file.pop("outputs")),
                **file,
            ),
            golden=Golden(
                inputs={name: Path(path) for name, path in golden.pop("inputs").items()},
                outputs={name: Path(path) for name, path in golden.pop("outputs").items()},
                **golden,
            ),
            **value,
        )


def _absolute(path: Path) -> str:
    return str(path.absolute())


def _tensors(values: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(item["name"], item["dtype"], tuple(item["shape"])) for item in values)

"""Ask a model once with zeros: ``python -m agent.serving.client /run/overlaid/http.sock MODEL``."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from agent.devices.tensors import DTYPES
from agent.serving.client.errors import ClientError
from agent.serving.client.requests import Array
from agent.serving.client.sync import Client


def main(arguments: list[str]) -> int:
    """Prints each output and how long it took; 1 and the error's text when there was no answer."""
    if len(arguments) != 2:
        print("usage: python -m agent.serving.client ADDRESS MODEL", file=sys.stderr)
        return 2
    address, model = arguments
    try:
        with Client(address) as client:
            inputs = {tensor["name"]: zeros(tensor) for tensor in client.metadata(model)["inputs"]}
            client.infer(model, inputs)
            started = time.perf_counter()
            outputs = client.infer(model, inputs)
            took_us = (time.perf_counter() - started) * 1e6
    except ClientError as error:
        print(f"{error.name}: {error}", file=sys.stderr)
        return 1
    for name, array in outputs.items():
        print(f"{name}: {array.dtype} {list(array.shape)}")
    print(f"answered in {took_us:.0f} us")
    return 0


def zeros(tensor: dict[str, Any]) -> Array:
    """For an input as metadata describe it; one sample where the first dimension is free."""
    shape = [max(size, 1) for size in tensor["shape"]]
    kind = DTYPES[tensor["datatype"]]
    return np.full(shape, b"", object) if kind.hasobject else np.zeros(shape, kind)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

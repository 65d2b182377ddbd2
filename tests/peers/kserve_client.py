"""KServe's InferenceRESTClient at work, unmodified. ``python kserve_client.py ADDRESS`` prints what it found as JSON.

Runs in ``.venv-peers``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceRESTClient, InferInput, InferOutput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput


async def _tour(base: str) -> dict[str, Any]:
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    try:
        found: dict[str, Any] = {
            "live": await client.is_server_live(base),
            "ready": await client.is_server_ready(base),
            "model ready": await client.is_model_ready(base, "pair"),
        }
        for binary in (False, True):
            found[f"binary {binary}"] = await _infer(client, base, "pair", binary)
        try:
            await _infer(client, base, "nope", False)
        except Exception as error:
            found["unknown model"] = type(error).__name__, "404" in str(error)
        return found
    finally:
        await client.close()


async def _infer(client: InferenceRESTClient, base: str, model: str, binary: bool) -> Any:
    inputs = []
    for name in ("a", "b"):
        tensor = InferInput(name, [2, 4], "FP32")
        tensor.set_data_from_numpy(np.arange(8, dtype=np.float32).reshape(2, 4), binary_data=binary)
        inputs.append(tensor)
    wanted = [RequestedOutput("sum", {"binary_data": binary})]
    request = InferRequest(model, inputs, request_id="7", request_outputs=wanted)
    answer = await client.infer(base, request, model_name=model)
    output: InferOutput = answer.outputs[0]
    return answer.id, answer.model_name, output.name, output.shape, output.as_numpy().tolist()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_tour(f"http://{sys.argv[1]}"))))

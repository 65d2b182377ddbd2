"""The thin client: inference on this machine over a Unix socket (or loopback HTTP), optionally in shared memory.

For applications: needs numpy and the standard library only. See docs/client.md.
"""

from agent.serving.client.aio import AsyncClient
from agent.serving.client.errors import (
    BadRequest,
    ClientError,
    ConnectionLost,
    DeadlineExceeded,
    InferenceFailed,
    ModelNotFound,
    ModelUnavailable,
    ServiceUnreachable,
)
from agent.serving.client.sync import Client

__all__ = [
    "AsyncClient", "BadRequest", "Client", "ClientError", "ConnectionLost", "DeadlineExceeded", "InferenceFailed",
    "ModelNotFound", "ModelUnavailable", "ServiceUnreachable",
]  # fmt: skip

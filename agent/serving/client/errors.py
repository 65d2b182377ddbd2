"""What can go wrong between an application and a model.

ClientError
├── BadRequest           the request makes no sense to the model: its text says what was expected
├── ModelNotFound        no such model or version, or shared memory that the service does not know
├── ModelUnavailable     starting, restarting or overloaded; ``retry_after`` s later it may answer
├── DeadlineExceeded     no answer in time
├── InferenceFailed      the runtime failed
├── ConnectionLost       the connection ended before the answer: the model may have run or not
└── ServiceUnreachable   nobody answers at the address: nothing was sent
"""

from __future__ import annotations

from agent.errors import OverlaidError


class ClientError(OverlaidError): ...


class BadRequest(ClientError): ...


class ModelNotFound(ClientError): ...


class ModelUnavailable(ClientError):
    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class DeadlineExceeded(ClientError): ...


class InferenceFailed(ClientError): ...


class ConnectionLost(ClientError): ...


class ServiceUnreachable(ClientError): ...


class Stale(Exception):
    """The connection ended before the service had taken a whole request: sending it again runs nothing twice."""


def refusal(status: int, text: str, retry_after: float) -> ClientError:
    """The error that an HTTP status stands for."""
    if status == 404:
        return ModelNotFound(text)
    if status in (429, 503):
        return ModelUnavailable(
            f"{text} (retry after {retry_after:g} s, or give the client retry_s)", retry_after
        )
    if status in (408, 504):
        return DeadlineExceeded(text)
    if 400 <= status < 500 or status == 501:
        return BadRequest(text)
    return InferenceFailed(text)


def lost() -> ConnectionLost:
    """The connection ended when a whole request had been sent."""
    return ConnectionLost(
        "the connection ended before the answer; the model may have run: ask again if that does no harm"
    )


def too_late(seconds: float) -> DeadlineExceeded:
    """The client waited long enough."""
    return DeadlineExceeded(
        f"no answer within {seconds:g} s; `overlaid status` shows whether the model runs; give a longer timeout_s if "
        "it may take so long"
    )

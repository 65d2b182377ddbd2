"""Topic names: one direction per topic, so that an ACL is one line per node (docs/wire.md)."""

from __future__ import annotations

from dataclasses import dataclass

from agent.mqtt import ROOT
from agent.types import check_digest, check_metadata_name, check_name

OPS = ("logs", "bench", "cancel", "restart", "download")


@dataclass(frozen=True, slots=True)
class Target:
    """A node or a group of a site. The text form (``site/node`` or ``site/group/name``) is inside what is signed."""

    site: str
    name: str
    group: bool = False

    def __post_init__(self) -> None:
        check_name(self.site, "site")
        check_name(self.name, "group" if self.group else "node")

    def __str__(self) -> str:
        return f"{self.site}/group/{self.name}" if self.group else f"{self.site}/{self.name}"

    @classmethod
    def parse(cls, text: str) -> Target:
        """Inverse of ``str``; ValueError otherwise."""
        match text.split("/"):
            case [site, name]:
                return cls(site, name)
            case [site, "group", name]:
                return cls(site, name, group=True)
        raise ValueError(f"target {text[:120]!r} is neither SITE/NODE nor SITE/group/NAME")

    def topic(self, *parts: str) -> str:
        """``overlaid/v1/{target}/{parts}``."""
        return "/".join((ROOT, str(self), *parts))

    @property
    def desired(self) -> str:
        return self.topic("desired")

    @property
    def reported(self) -> str:
        return self.topic("reported")

    @property
    def status(self) -> str:
        return self.topic("status")

    @property
    def capabilities(self) -> str:
        return self.topic("capabilities")

    def command(self, op: str, command_id: str) -> str:
        return self.topic("command", op, command_id)

    def result(self, op: str, command_id: str) -> str:
        return self.topic("result", op, command_id)

    def telemetry(self, stream: str) -> str:
        return self.topic("telemetry", stream)


def block_requests(site: str, digest: str) -> str:
    """Where nodes ask for blocks of the package with this manifest digest."""
    return f"{ROOT}/{check_name(site, 'site')}/blocks/{check_digest(digest)}/request"


def block_data(site: str, digest: str) -> str:
    """Where the server answers; shared by every node that wants the package."""
    return f"{ROOT}/{check_name(site, 'site')}/blocks/{check_digest(digest)}/data"


def metadata_requests(site: str) -> str:
    """Where nodes ask for metadata of the site's TUF repository."""
    return f"{ROOT}/{check_name(site, 'site')}/repo/request"


def metadata_data(site: str, name: str) -> str:
    """Where the server answers with the file's bytes; shared by every node that waits for this file."""
    return f"{ROOT}/{check_name(site, 'site')}/repo/data/{check_metadata_name(name)}"

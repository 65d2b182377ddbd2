"""What an operator sees of the nodes on the broker: who is online, how deployments stand, which blocks were sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.errors import MessageError
from agent.fleet.views import Heard, NodeView, node_filters
from agent.link.blocks import DIGEST_BYTES
from agent.link.client import Message, MqttLink
from agent.link.messages import Reported
from agent.mqtt import ROOT

KINDS = ("status", "reported", "capabilities")


@dataclass(frozen=True, slots=True)
class Wire:
    """What passed the broker while the nodes ran. A frame is a block on its way to every node that listens.

    ``blocks``: distinct ones. ``requests``: messages of nodes that ask for blocks. ``control_bytes``: what the nodes
    said of themselves, without telemetry.
    """

    blocks: int = 0
    frames: int = 0
    frame_bytes: int = 0
    requests: int = 0
    control_bytes: int = 0

    @property
    def sent_each(self) -> float | None:
        """How often a block was sent; None when none was."""
        return self.frames / self.blocks if self.blocks else None


class Observer:
    """Listens to one site. What is retained from before ``since`` (Unix seconds) belongs to earlier nodes of these
    names and is left out; what is retained of later reports was missed while the broker was away."""

    def __init__(self, site: str, nodes: Collection[str], since: float) -> None:
        self._site, self._nodes, self._since = site, frozenset(nodes), since
        self._blocks_prefix = f"{ROOT}/{site}/blocks/"
        self._views: dict[str, NodeView] = {}
        self._frames: Counter[tuple[str, bytes]] = Counter()
        self._frame_bytes = self._requests = self._control_bytes = 0

    def subscribe(self, link: MqttLink) -> None:
        """All at QoS 0: nothing queues at the broker for an observer that is slow."""
        for topic in (*node_filters(self._site, *KINDS), f"{self._blocks_prefix}+/+"):
            link.subscribe(topic, 0)

    def handle(self, message: Message) -> None:
        """For ``agent.fleet.connection.connect``."""
        message.ack()
        if message.topic.startswith(self._blocks_prefix):
            self._block(message)
        else:
            self._node(message)

    def _block(self, message: Message) -> None:
        package, kind = message.topic.split("/")[-2:]
        if kind == "request":
            self._requests += 1
        elif kind == "data" and len(message.payload) >= DIGEST_BYTES:
            self._frames[package, message.payload[:DIGEST_BYTES]] += 1
            self._frame_bytes += len(message.payload)

    def _node(self, message: Message) -> None:
        try:
            heard = Heard.parse(self._site, message.topic, message.payload, time.time())
        except MessageError:
            return
        missed = isinstance(heard.message, Reported) and heard.message.time >= self._since
        if heard.node in self._nodes and (missed or not message.retain):
            self._control_bytes += len(message.payload)
            self._views[heard.node] = self._views.get(heard.node, NodeView(heard.node)).after(heard)

    @property
    def online(self) -> int:
        return sum(view.online for view in self._views.values())

    def states(self, model: str | None) -> Mapping[str, int]:
        """Nodes by the state (while in progress: phase) of ``model``, or of every model; most advanced last."""
        found: Counter[str] = Counter()
        for view in self._views.values():
            for reported in view.reported.models if view.reported else ():
                if model in (None, reported.name):
                    found[
                        (
                            reported.phase if not reported.state.final and reported.phase else reported.state
                        ).value
                    ] += 1
        return found

    def ended(self, model: str) -> set[str]:
        """The nodes that reported a final state of ``model``."""
        views = self._views.items()
        return {
            node for node, view in views if (found := view.model(model)) is not None and found.state.final
        }

    @property
    def wire(self) -> Wire:
        return Wire(
            len(self._frames),
            self._frames.total(),
            self._frame_bytes,
            self._requests,
            self._control_bytes,
        )

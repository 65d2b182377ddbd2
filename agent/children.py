"""What processes of the node's own are started with. Imports no room."""

from __future__ import annotations

import os


def environment_of_children() -> dict[str, str]:
    """This process's, less what it knows of the broker: runtimes, drivers and helpers need no password."""
    return {key: value for key, value in os.environ.items() if not key.startswith("OVERLAID_MQTT_")}

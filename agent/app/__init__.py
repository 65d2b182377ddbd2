"""Composition root: builds the parts from Config, runs them, feeds the watchdog, shuts down in order.

``daemon`` (life cycle), ``inbox`` (MQTT → deployments and commands), ``reporter`` (state → MQTT and snapshot),
``uplink`` and ``endings`` (telemetry and ends of deployments → outbox), ``local`` (the control socket's operations),
``wire`` (links). May import every room but fleet and cli.
"""

from __future__ import annotations

from agent.config import Config


def run(config: Config) -> int:
    """Run the daemon until SIGTERM or SIGINT; the exit code."""
    from agent.app.daemon import main

    return main(config)

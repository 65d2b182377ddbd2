"""Overlays that ship with the agent: one folder each, described by its ``overlay.toml``."""

from pathlib import Path

FOLDER = Path(__file__).parent

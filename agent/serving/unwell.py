"""Failures that speak of a device, not of the request or the model."""

from __future__ import annotations

from agent.errors import DeviceLost, DmaTimeout, OverlayHung, OverlayLoadError

UNWELL = (DeviceLost, DmaTimeout, OverlayHung, OverlayLoadError)

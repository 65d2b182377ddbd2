"""Property-based tests judge values, never wall time: another test may have the processor just then."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("loaded-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded-machine")

"""A Vulkan driver that computes on the CPU, to stand in for a GPU's."""

from __future__ import annotations

from pathlib import Path

import pytest

DRIVERS = (
    Path("/usr/lib/chromium/vk_swiftshader_icd.json"),
    *sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")),
)


def software_vulkan() -> str:
    """For VK_ICD_FILENAMES; skips the test where there is none."""
    found = next((path for path in DRIVERS if path.exists()), None)
    if found is None:
        pytest.skip("no software Vulkan here: apt-get install chromium (SwiftShader) or mesa-vulkan-drivers")
    return str(found)

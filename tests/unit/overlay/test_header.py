"""The RTL's parameter headers, which are committed, say what each overlay.toml says."""

from __future__ import annotations

import pytest

from agent.overlay.header import HEADER_NAME, header
from agent.overlay.spec import SPEC_NAME, parse_spec
from bitstreams import FOLDER

OVERLAYS = sorted(path.parent.name for path in FOLDER.glob(f"*/{SPEC_NAME}"))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_header_is_made_from_overlay_toml(overlay: str) -> None:
    folder = FOLDER / overlay
    wanted = header(parse_spec((folder / SPEC_NAME).read_bytes()))
    assert (folder / HEADER_NAME).read_text() == wanted, "run: python -m agent.overlay.header"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version = 1", "version = 2"),
        ("lanes = 16", "lanes = 8"),
        ("activation_words = 8192", "activation_words = 4096"),
        ("hz = 100_000_000", "hz = 90_000_000"),
        ("CONTROL = { offset = 0x20", "CONTROL = { offset = 0xA0"),
        ("CONV = 0x03", "CONV = 0x0A"),
        ("zero_point = { at = [9, 24, 8]", "zero_point = { at = [14, 24, 8]"),
    ],
)
def test_what_changes_in_overlay_toml_changes_in_the_header(old: str, new: str) -> None:
    text = (FOLDER / "npu" / SPEC_NAME).read_text()
    assert text.count(old) == 1
    changed = header(parse_spec(text.replace(old, new).encode()))
    assert changed != (FOLDER / "npu" / HEADER_NAME).read_text()

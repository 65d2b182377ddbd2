"""The sample configuration with keys set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.config import load_config
from agent.setup.sample import filled, is_sample

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SAMPLE = (Path(__file__).resolve().parents[3] / "systemd/agent.toml").read_text()
TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)


def read(text: str) -> dict[str, Any]:
    return tomllib.loads(text)


def test_comments_stay_and_keys_come_to_life() -> None:
    text = filled(
        SAMPLE, {"node": {"site": "lab", "groups": ["a", "b"]}, "mqtt": {"host": "broker.lab", "port": 8883}}
    )
    assert read(text)["node"] == {"site": "lab", "groups": ["a", "b"]}
    assert read(text)["mqtt"] == {"host": "broker.lab", "port": 8883}
    assert [line for line in SAMPLE.splitlines() if line.startswith("# ")] == [
        line for line in text.splitlines() if line.startswith("# ")
    ]


def test_without_values_the_sample_stays() -> None:
    assert filled(SAMPLE, {"mqtt": {}}) == SAMPLE


def test_what_the_sample_does_not_have_is_added() -> None:
    text = filled("[node]\n#name = 1\n", {"node": {"other": 2}, "more": {"key": "x"}})
    assert read(text) == {"node": {"other": 2}, "more": {"key": "x"}}


@given(st.dictionaries(st.sampled_from(["host", "username", "ca"]), TEXT))
def test_any_text_is_read_back(table: dict[str, str]) -> None:
    assert read(filled(SAMPLE, {"mqtt": dict(table)})).get("mqtt", {}) == table


def test_the_daemon_reads_what_was_filled(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(filled(SAMPLE, {"node": {"name": "cam-7"}, "mqtt": {"host": "b", "ca": Path("/ca.pem")}}))
    config = load_config(file, {})
    assert config.node.name == "cam-7"
    assert config.mqtt is not None and config.mqtt.ca == Path("/ca.pem")


def test_a_sample_that_nobody_changed_is_known(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    assert not is_sample(config)
    config.write_text(SAMPLE)
    assert is_sample(config)
    config.write_text(f"{SAMPLE}# mine\n")
    assert not is_sample(config)
    config.write_bytes(b"\xff")
    assert not is_sample(config)

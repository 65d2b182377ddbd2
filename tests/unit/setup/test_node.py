"""What becomes of a configuration whose node gets a certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import load_config
from agent.errors import ConfigError
from agent.setup import node
from agent.setup.files import Owner
from agent.setup.sample import sample_text
from agent.trust import PrivateKey

KEYS = (str(PrivateKey.generate().public),)


def pointed(place: node.Place, text: str) -> str:
    place.config.write_text(text)
    node.point(place, load_config(place.config, {}), place.root, KEYS, Owner.find())
    return place.config.read_text()


@pytest.fixture
def place(tmp_path: Path) -> node.Place:
    return node.Place(tmp_path / "agent.toml")


def test_it_names_the_certificate_and_keeps_the_rest(place: node.Place) -> None:
    sample = (
        sample_text().replace("#[mqtt]", "[mqtt]").replace("#host = ", "host = ").replace("#ca = ", "ca = ")
    )
    before = sample.replace("#cap_w", "cap_w")
    after = pointed(place, before)
    found = load_config(place.config, {})
    assert found.mqtt is not None and (found.mqtt.cert, found.mqtt.key) == (place.certificate, place.key)
    assert (found.trust.root, found.trust.command_keys) == (place.root, KEYS)
    assert len(set(before.splitlines()) - set(after.splitlines())) == 4
    assert pointed(place, after) == after


def test_a_file_that_is_written_otherwise_stays_and_the_lines_are_told(place: node.Place) -> None:
    text = '[mqtt]\nhost = "b"\nca = "ca.pem"\n#cert = "x"\n#key = "x"\ncert = "old.pem"\nkey = "old.key"\n'
    with pytest.raises(ConfigError, match=r"write into .*\[mqtt\] cert = .*node.pem.*key = "):
        pointed(place, text)
    assert place.config.read_text() == text

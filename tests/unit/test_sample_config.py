"""systemd/agent.toml is what people read: it names every key, shows the true defaults, and parses as it says."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from agent.config import Config, Mqtt, Section, load_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SAMPLE = Path(__file__).parents[2] / "systemd" / "agent.toml"
SECTIONS: dict[str, type[Section]] = {
    name: Mqtt if name == "mqtt" else field.annotation  # type: ignore[misc]
    for name, field in Config.model_fields.items()
}
EXCLUSIVE = ("password", "password_file")


def uncommented(without: str = "") -> str:
    """The sample with each ``#key = value`` and ``#[section]`` in force, but for the key ``without``."""
    text = re.sub(r"^#(\[|[a-z_]+ = )", r"\1", SAMPLE.read_text(), flags=re.MULTILINE)
    return re.sub(rf"^{without} = .*$", "", text, flags=re.MULTILINE) if without else text


def test_as_shipped_it_gives_the_defaults_and_the_services_directories() -> None:
    config = load_config(SAMPLE, environ={})
    assert config.model_dump(exclude={"paths"}) == Config().model_dump(exclude={"paths"})
    assert (str(config.paths.state), str(config.paths.runtime)) == ("/var/lib/overlaid", "/run/overlaid")


@pytest.mark.parametrize("without", EXCLUSIVE)
def test_every_commented_key_is_valid_once_uncommented(without: str, tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(uncommented(without))
    assert load_config(path, environ={}).mqtt is not None


def test_it_has_every_key_and_no_other() -> None:
    shown = {section: set(keys) for section, keys in tomllib.loads(uncommented()).items()}
    assert shown == {section: set(kind.model_fields) for section, kind in SECTIONS.items()}


def test_the_shown_defaults_are_the_defaults() -> None:
    shown = tomllib.loads(uncommented())
    for section, kind in SECTIONS.items():
        for key, field in kind.model_fields.items():
            if field.default in (None, PydanticUndefined):
                continue  # no fixed default: the sample shows an example
            default: Any = list(field.default) if isinstance(field.default, tuple) else field.default
            assert shown[section][key] == default, f"{section}.{key}"


def explanations() -> dict[tuple[str, str], str]:
    """(section, key) → the comment above the key, or above the keys that it stands together with."""
    found: dict[tuple[str, str], str] = {}
    section, comment, ended = "", "", True
    for line in SAMPLE.read_text().splitlines():
        if line.startswith("# "):
            comment, ended = line if ended else f"{comment}\n{line}", False
        elif header := re.match(r"#?\[(\w+)\]", line):
            section, comment, ended = header[1], "", True
        elif key := re.match(r"#?([a-z_]+) = ", line):
            found[section, key[1]], ended = comment, True
    return found


def test_each_key_is_explained_and_an_example_is_not_taken_for_a_default() -> None:
    texts = explanations()
    for section, kind in SECTIONS.items():
        for key, field in kind.model_fields.items():
            assert texts[section, key], f"{section}.{key} has no comment"
            if field.default is None:
                assert "Default: none" in texts[section, key], f"{section}.{key}"

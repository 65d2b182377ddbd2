from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ConfigError, UsageError
from agent.fleet.home import Home, default_path, parse_broker


def test_settings_are_read_as_they_were_written(tmp_path: Path) -> None:
    home = Home(tmp_path / "deep" / "fleet")
    mqtt: dict[str, Any] = {
        "host": "broker.lan",
        "port": 8883,
        "username": 'the "operator" \\ é',
        "password_file": tmp_path / "password",
        "ca": Path("/etc/ca.pem"),
        "cert": None,
    }
    written = home.write_settings("lab", mqtt)
    assert home.load_settings() == written
    assert (written.fleet.site, written.mqtt.port, written.mqtt.username) == ("lab", 8883, mqtt["username"])
    assert written.mqtt.password_file == tmp_path / "password"
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700


def test_settings_are_replaced_only_with_force(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_settings("lab", {"host": "one"})
    with pytest.raises(UsageError, match="--force"):
        home.write_settings("lab", {"host": "two"})
    assert home.load_settings().mqtt.host == "one"
    home.write_settings("lab", {"host": "two"}, force=True)
    assert home.load_settings().mqtt.host == "two"


@pytest.mark.parametrize(
    ("site", "mqtt", "named"),
    [
        ("Lab 1", {"host": "h"}, "fleet.site"),
        ("lab", {"host": "h", "port": 99999}, "mqtt.port"),
        ("lab", {"host": ""}, "mqtt.host"),
        ("lab", {"host": "h", "cert": "c"}, "cert and key belong together"),
    ],
)
def test_settings_that_could_not_be_read_are_not_written(
    tmp_path: Path, site: str, mqtt: dict[str, Any], named: str
) -> None:
    home = Home(tmp_path)
    with pytest.raises(UsageError, match=named):
        home.write_settings(site, mqtt)
    assert not home.settings_file.exists()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[fleet]\nsite = "lab"\n', "mqtt"),
        ('[fleet]\nsite = "lab"\ncolour = "red"\n[mqtt]\nhost = "h"\n', "fleet.colour: unknown key"),
        ('[fleet]\nsite = "lab"\n[mqtt]\nhost = "h"\n[serving]\n', "serving: unknown key"),
        ("[fleet\n", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "fleet.toml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        Home(tmp_path).load_settings()


def test_without_settings_the_command_that_makes_them_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="overlaid fleet init --site lab --broker localhost:1883"):
        Home(tmp_path).load_settings()


def test_a_folder_that_was_named_is_in_the_commands_to_type(tmp_path: Path) -> None:
    assert Home().command("status") == "overlaid fleet status"
    assert Home(Path("my fleet")).command("keys list") == "overlaid fleet keys list --home 'my fleet'"
    with pytest.raises(ConfigError, match=f"localhost:1883 --home {tmp_path}"):
        Home(tmp_path).load_settings()


def test_the_environment_names_the_folder() -> None:
    assert default_path({"OVERLAID_FLEET": "/srv/fleet"}) == Path("/srv/fleet")
    assert default_path({}) == Path.home() / ".config/overlaid-fleet"


@pytest.mark.parametrize(
    ("text", "tls", "broker"),
    [
        ("localhost:1884", False, ("localhost", 1884)),
        ("localhost", False, ("localhost", 1883)),
        ("localhost", True, ("localhost", 8883)),
        ("[::1]:1884", False, ("::1", 1884)),
        ("[::1]", False, ("::1", 1883)),
    ],
)
def test_broker_addresses(text: str, tls: bool, broker: tuple[str, int]) -> None:
    assert parse_broker(text, tls) == broker


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1883",
        "host:",
        "host:mqtt",
        "::1",
        "host:1²",
        "[]:1",
        "foo bar",
        "foo bar:1",
        "mqtt://host",
        "mqtt://me:hunter2@host:1883",
        "host/x:1",
        "host:0",
        "host:99999",
        "[host]:1",
        "a..b",
    ],
)
def test_not_a_broker_address(text: str) -> None:
    with pytest.raises(UsageError, match="HOST:PORT") as caught:
        parse_broker(text)
    assert "hunter2" not in str(caught.value)

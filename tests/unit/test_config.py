"""The configuration: file, environment, and what is wrong with it by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Config, load_config
from agent.errors import ConfigError
from agent.trust import PrivateKey


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    (tmp_path / "agent.toml").write_text(text)
    return load_config(tmp_path / "agent.toml", environ)


def test_an_empty_file_is_a_node_without_a_broker(tmp_path: Path) -> None:
    config = load(tmp_path, "")
    assert config.mqtt is None and config.node.board == "local" and config.serving.http == "127.0.0.1:8000"


def test_a_simulated_board_may_name_what_runs_its_overlays(tmp_path: Path) -> None:
    assert load(tmp_path, '[node]\nboard = "sim:pynq-z2/rtl"\n').node.board == "sim:pynq-z2/rtl"


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        '[node]\nname = "a"\n[deploy]\nsoak_s = 3\n',
        OVERLAID_NODE_NAME="b",
        OVERLAID_NODE_GROUPS="east, west",
        OVERLAID_MQTT_HOST="broker",
        OVERLAID_DEPLOY_SOAK_S="7.5",
        OVERLAID_SERVING_SHARED_MEMORY="true",
    )
    assert (config.node.name, config.node.groups) == ("b", ("east", "west"))
    assert config.mqtt is not None and config.mqtt.host == "broker"
    assert config.deploy.soak_s == 7.5 and config.serving.shared_memory


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[node]\nnmae = "x"', "node.nmae: unknown key"),
        ("[nodes]", "nodes: unknown key"),
        ('[node]\nname = "Not A Name"', "node.name"),
        ('[node]\nname = "group"', "reserved"),
        ('[node]\nname = "blocks"', "reserved"),
        ('[node]\nsite = "-x"', "node.site"),
        ("[node]\nname = 5", "node.name"),
        ('[mqtt]\nhost = "b"\nport = 70000', "mqtt.port"),
        ('[mqtt]\nhost = ""', "mqtt.host"),
        ('[mqtt]\nhost = "b"\ncert = "c.pem"', "belong together"),
        ('[mqtt]\nhost = "b"\ncert = "c"\nkey = "k"', "needs ca"),
        ('[mqtt]\nhost = "b"\npassword = "p"\npassword_file = "f"', "not both"),
        ('[trust]\ncommand_keys = ["ed25519:AAAA"]', "32 bytes"),
        ("[trust]\npackage_keys = []", "package_keys"),
        ('[trust]\ncommand_keys = ["rsa:AAAA"]', "not a public key"),
        ("[power]\nidle_w = 2.0", "idle_w and busy_w belong together"),
        ("[power]\nidle_w = 2.0\nbusy_w = 2.0", "busy_w must be more than idle_w"),
        ("[power]\nidle_w = nan\nbusy_w = 2.0", "power.idle_w"),
        ('[serving]\nhttp = "0.0.0.0:8000"', "serving.http"),
        ("[power]\ncap_w = -1", "power.cap_w"),
        ('[deploy]\nsoak_s = "ten"', "deploy.soak_s"),
        ('[deploy]\nsoak_s = "10"', "deploy.soak_s"),
        ("[serving]\nthreads = true", "serving.threads"),
        ("[power]\ncap_w = inf", "power.cap_w"),
        ("[power]\ncap_w = nan", "power.cap_w"),
        ('[serving]\nhttp = "127.0.0.1:99999"', "port must be between"),
        ("[telemetry]\nmax_mb = 0", "telemetry.max_mb"),
        ('[delivery]\ndownload_hours = ["22-6"]', "must be like 22:00-06:00"),
        ('[delivery]\ndownload_hours = ["07:00-07:00"]', "delivery.download_hours.0: 07:00-07:00 is empty"),
        ("[delivery]\nmax_kbit_s = 0", "delivery.max_kbit_s"),
        ("[delivery]\nmax_kbit_s = 8\n[deploy]\ndownload_timeout_s = 60.0", "set that to 1049 or more"),
        ("not toml", "not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert named in str(caught.value) and "agent.toml" in str(caught.value)


def test_a_missing_file_and_a_huge_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent"):
        load_config(tmp_path / "absent.toml", {})
    (tmp_path / "huge.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="1 MiB"):
        load_config(tmp_path / "huge.toml", {})


def test_secrets_do_not_show(tmp_path: Path) -> None:
    secret = "hunter2-hunter2"
    config = load(tmp_path, f'[mqtt]\nhost = "b"\npassword = "{secret}"\n')
    assert secret not in repr(config) and secret not in config.model_dump_json()
    assert config.mqtt is not None and config.mqtt.read_password() == secret


SECRET = "hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f'[mqtt]\nhost = "mqtts://me:{SECRET}@b:8883"',
        f'[mqtt]\nhost = "me:{SECRET}@b"',
        f'[mqtt]\nhost = "b"\npassword = ["{SECRET}"]',
        f'[mqtt]\nhost = "b"\npassword = {SECRET}',
        f'[mqtt]\nhost = "b"\npassword = "{SECRET}',
        f'[mqtt]\nhost = "b"\npasswort = "{SECRET}"',
        f'[mqtt]\nhost = "b"\npassword = "{SECRET}"\npassword_file = "f"',
        f'mqtt = "{SECRET}"',
        f'[trust]\ncommand_keys = ["{SECRET}"]',
    ],
)
def test_what_is_wrong_is_named_without_the_secret_in_it(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert SECRET not in str(caught.value) and "agent.toml" in str(caught.value)


@pytest.mark.parametrize("host", ["broker", "broker.lab.", "10.0.0.7", "::1", "fe80::1%eth0", "my_broker"])
def test_hosts(tmp_path: Path, host: str) -> None:
    mqtt = load(tmp_path, f'[mqtt]\nhost = "{host}"\n').mqtt
    assert mqtt is not None and mqtt.host == host


def test_a_password_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("from-file\nnot this\n")
    config = load(tmp_path, f'[mqtt]\nhost = "b"\npassword_file = "{tmp_path}/password"\n')
    assert config.mqtt is not None and config.mqtt.read_password() == "from-file"
    for damage in (b"", b"\n", b"\xff\xfe"):
        (tmp_path / "password").write_bytes(damage)
        with pytest.raises(ConfigError, match="password_file"):
            config.mqtt.read_password()
    (tmp_path / "password").unlink()
    with pytest.raises(ConfigError, match="password_file"):
        config.mqtt.read_password()


def test_who_is_trusted_is_read(tmp_path: Path) -> None:
    key = str(PrivateKey.generate().public)
    trust = load(tmp_path, f'[trust]\nroot = "/etc/overlaid/root.json"\ncommand_keys = ["{key}"]').trust
    assert (trust.root, trust.command_keys) == (Path("/etc/overlaid/root.json"), (key,))
    assert load(tmp_path, "").trust.root is None

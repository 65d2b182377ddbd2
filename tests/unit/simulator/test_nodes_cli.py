"""What ``overlaid sim nodes`` refuses, and what it makes of options and the operator's folder."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest

from agent.cli import main
from agent.config import load_config
from agent.errors import UsageError
from agent.fleet.home import Home
from agent.fleet.keys import new_key
from simulator.cli import nodes as command
from simulator.nodes import limits
from simulator.nodes.light import light_workers
from simulator.nodes.node import CONFIG, Plan, SimNode
from simulator.nodes.truth import Truth
from tests.system.brokers import free_port


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An operator's folder whose broker does not run."""
    home = Home(tmp_path / "fleet")
    home.write_settings("lab", {"host": "127.0.0.1", "port": free_port()})
    new_key(home, "commands")
    home.repo.mkdir()
    (home.repo / "root.json").write_text("{}")
    return home


def refused(capsys: pytest.CaptureFixture[str], home: Home, *options: str, code: int = 2) -> str:
    assert main(["sim", "nodes", "--home", str(home.path), *options]) == code
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--count", "0"), "1 to 500"),
        (("--count", "501"), "1 to 500"),
        (("--board", "pynq-z9"), "there are jetson-orin-nano, kv260"),
        (("--broker", "host:port"), "not HOST:PORT"),
        (("--site", "Lab"), "site 'Lab'"),
        (("--group", "group"), "reserved"),
        (("--wait", "Digits!"), "model 'Digits!'"),
        (("--profile", "2m"), "profile_s: Input should be less than or equal to 60"),
        (("--soak", "2d"), "soak_s: Input should be less than or equal to 86400"),
    ],
)
def test_bad_options_are_named(
    capsys: pytest.CaptureFixture[str], home: Home, options: tuple[str, ...], says: str
) -> None:
    assert says in refused(capsys, home, *options)


def test_a_home_without_settings_or_keys_says_how_to_make_them(
    capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path
) -> None:
    assert "overlaid fleet init" in refused(capsys, Home(tmp_path / "none"), code=1)
    (home.keys / "commands.pem").unlink()
    text = refused(capsys, home, code=1)
    assert "overlaid fleet keys new commands" in text and str(home.path) in text
    new_key(home, "commands")
    (home.repo / "root.json").unlink()
    text = refused(capsys, home, code=1)
    assert "overlaid fleet repo init" in text and str(home.path) in text


def test_a_broker_that_does_not_run_is_named_and_nothing_is_left(
    capsys: pytest.CaptureFixture[str], home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(limits, "MAX_SOCKET_PATH", 1000)
    port = free_port()
    text = refused(capsys, home, "--count", "3", "--broker", f"127.0.0.1:{port}", code=1)
    assert "LinkError" in text and f"127.0.0.1:{port}" in text
    assert list((tmp_path / "tmp").iterdir()) == []


def test_files_are_reserved_up_to_the_hard_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: set_to.append(both))
    limits.reserve_files(10)
    assert set_to == []
    limits.reserve_files(100)
    assert set_to == [(100 * limits.FILES_PER_NODE + limits.OTHER_FILES, 4096)]
    with pytest.raises(UsageError, match="at most --count 212"):
        limits.reserve_files(213)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    limits.reserve_files(500)
    assert set_to[-1][0] > 500 * limits.FILES_PER_NODE


def test_a_socket_path_that_would_be_too_long_is_refused() -> None:
    limits.check_path(Path("/tmp/sim-abcdefgh"), "digits")
    with pytest.raises(UsageError, match="TMPDIR"):
        limits.check_path(Path("/tmp") / ("x" * 80), "digits")


def test_a_node_leaves_a_config_for_status_and_faults_that_holds_no_secret(
    home: Home, tmp_path: Path
) -> None:
    args = ["--home", str(home.path), "--board", "kv260", "--board", "rpi5"]
    plan = plan_of(args)
    assert [plan.board(index) for index in range(3)] == ["kv260", "rpi5", "kv260"]
    config = plan.config(tmp_path / 'a "b"', 1)
    assert (config.node.name, config.node.board, config.node.groups) == ("sim-001", "sim:rpi5", ("sim",))
    assert config.serving.http == "" and config.trust.root == home.repo / "root.json"
    assert len(config.trust.command_keys) == 1

    async def run() -> SimNode:
        node = SimNode(config, light_workers(Truth()), 0, [])
        await node.start(0.0)
        assert node.alive and not node.connected
        await node.stop()
        return node

    node = asyncio.run(run())
    assert (node.name, node.board, node.error, node.alive) == ("sim-001", "rpi5", "", False)
    text = (config.paths.state.parent / CONFIG).read_text()
    assert "mqtt" not in text and "key" not in text
    found = load_config(config.paths.state.parent / CONFIG, {})
    assert (found.node.board, found.paths) == (config.node.board, config.paths)


def plan_of(options: list[str]) -> Plan:
    from agent.cli import build_parser

    return command._plan(build_parser(first="sim").parse_args(["sim", "nodes", *options]), None)

"""``overlaid service``: plans against roots of this test's own; no command is run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import main
from agent.errors import ServiceError, UsageError
from agent.setup import service
from agent.setup.installed import installed_text
from agent.setup.service import FILES, UNIT, Command

SYSTEM = ["/usr/local/venv", "/usr"]
Recorded = list[Command]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that systemd runs."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def recorded() -> Recorded:
    return []


def below(root: Path, path: Path) -> Path:
    return root / str(path).lstrip("/")


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_installed_starts_this_installations_program(root: Path, recorded: Recorded) -> None:
    service.carry_out(service.installation(root), recorded.append, root)
    unit = below(root, FILES[UNIT]).read_text()
    assert f"ExecStart={service.program()} run --config /etc/overlaid/agent.toml" in unit
    assert "/opt/overlaid/" not in unit
    assert files(root) == {str(path).lstrip("/") for path in FILES.values()} | {"etc/overlaid/agent.toml"}
    assert below(root, Path("/etc/overlaid/agent.toml")).stat().st_mode & 0o777 == 0o640
    assert recorded[-2:] == [("systemctl", "enable", UNIT), ("systemctl", "restart", UNIT)]
    assert not any(command[0] == "udevadm" for command in recorded)  # no udev here


def test_where_udev_runs_it_hears_of_the_rule(root: Path) -> None:
    below(root, service.UDEV).parent.mkdir()
    below(root, service.UDEV).touch()
    assert ("udevadm", "control", "--reload") in service.installation(root).commands


def test_a_masked_unit_stays_masked_and_nothing_is_written_where_a_link_leads(
    root: Path, recorded: Recorded, tmp_path: Path
) -> None:
    unit, victim = below(root, FILES[UNIT]), tmp_path / "victim"
    unit.parent.mkdir(parents=True)
    unit.symlink_to("/dev/null")
    with pytest.raises(ServiceError, match="systemctl unmask overlaid"):
        service.check(root, SYSTEM)
    unit.unlink()
    victim.write_text("mine")
    victim.chmod(0o600)
    unit.symlink_to(victim)
    service.carry_out(service.installation(root), recorded.append, root)
    assert "ExecStart" in unit.read_text()
    assert (victim.read_text(), victim.stat().st_mode & 0o777) == ("mine", 0o600)


def test_a_purge_removes_a_link_and_not_what_it_leads_to(root: Path, recorded: Recorded) -> None:
    service.carry_out(service.installation(root), recorded.append, root)
    elsewhere, state = root / "data", below(root, Path("/var/lib/overlaid"))
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    state.parent.mkdir(parents=True)
    state.symlink_to(elsewhere)
    service.carry_out(service.removal(True, root), recorded.append, root)
    assert not state.is_symlink() and (elsewhere / "file").exists()


def test_doing_it_again_keeps_the_configuration(root: Path, recorded: Recorded) -> None:
    config = below(root, Path("/etc/overlaid/agent.toml"))
    config.parent.mkdir(parents=True)
    config.write_text("[node]\nname = 'mine'\n")
    for _ in range(2):
        service.carry_out(service.installation(root), recorded.append, root)
    assert config.read_text() == "[node]\nname = 'mine'\n"


@pytest.mark.parametrize("purge", [False, True])
def test_removal_leaves_configuration_and_state_unless_purged(
    root: Path, recorded: Recorded, purge: bool
) -> None:
    service.carry_out(service.installation(root), recorded.append, root)
    for path in (Path("/var/lib/overlaid/state.db"), service.DROP_INS / "gpu.conf"):
        below(root, path).parent.mkdir(parents=True)
        below(root, path).touch()
    recorded.clear()
    service.carry_out(service.removal(purge, root, [("userdel", "overlaid")]), recorded.append, root)
    kept = {
        "etc/overlaid/agent.toml",
        "var/lib/overlaid/state.db",
        "etc/systemd/system/overlaid.service.d/gpu.conf",
    }
    assert files(root) == (set() if purge else kept)
    assert recorded[0] == ("systemctl", "disable", "--now", UNIT)
    assert (("userdel", "overlaid") in recorded) == purge
    service.carry_out(service.removal(purge, root), recorded.append, root)  # nothing left is no error


def package(root: Path) -> None:
    below(root, service.DEBIAN).parent.mkdir(parents=True)
    below(root, service.DEBIAN).touch()


def no_systemd(root: Path) -> None:
    (root / "run/systemd/system").rmdir()


@pytest.mark.parametrize(
    ("change", "prefixes", "way_on"),
    [
        (package, SYSTEM, "systemctl status overlaid"),
        (no_systemd, SYSTEM, "run --config /etc/overlaid/agent.toml"),
        (lambda _: None, ["/home/ann/.local/share/pipx/venvs/overlaid", "/usr"], "PIPX_HOME=/opt/pipx"),
        (lambda _: None, ["/opt/pipx/venvs/overlaid", "/root/.pyenv/versions/3.11.7"], "nothing of /root"),
    ],
)
def test_it_refuses_with_the_way_on(
    root: Path, change: Callable[[Path], None], prefixes: list[str], way_on: str
) -> None:
    service.check(root, SYSTEM)
    change(root)
    with pytest.raises(ServiceError) as refused:
        service.check(root, prefixes)
    assert way_on in str(refused.value)


def test_the_packages_service_is_the_packages_to_remove(root: Path) -> None:
    service.check_removable(root)
    package(root)
    with pytest.raises(ServiceError, match="apt-get remove overlaid"):
        service.check_removable(root)


def test_without_root_the_command_to_give_is_named() -> None:
    service.need_root("service install", 0)
    with pytest.raises(UsageError, match=rf"sudo {service.program()} service install"):
        service.need_root("service install", 1000)


def test_status_tells_old_files_from_this_versions(root: Path, recorded: Recorded) -> None:
    said = "ActiveState=active\nUnitFileState=enabled\nStatusText=no models\n"
    assert service.state(root, lambda _: said).installed_by == "nobody"
    service.carry_out(service.installation(root), recorded.append, root)
    below(root, FILES["overlaid.sysusers"]).write_text("u other -\n")
    found = service.state(root, lambda _: said)
    assert (found.installed_by, found.active, found.enabled, found.text) == (
        "overlaid service install",
        "active",
        "enabled",
        "no models",
    )
    assert found.files[str(FILES[UNIT])] == "as it came"
    assert found.files[str(FILES["overlaid.sysusers"])] == "differs from this version's"


def test_a_file_that_cannot_be_written_is_named(root: Path, recorded: Recorded) -> None:
    (root / "etc").write_text("in the way")
    with pytest.raises(ServiceError, match="run this again"):
        service.carry_out(service.installation(root), recorded.append, root)
    assert recorded == []


def test_a_command_that_fails_or_is_missing_is_named() -> None:
    assert service.answer(("echo", "yes")) == "yes\n"
    with pytest.raises(ServiceError, match="sh -c echo no >&2; false failed: no"):
        service.answer(("sh", "-c", "echo no >&2; false"))
    with pytest.raises(ServiceError, match="no-such-command"):
        service.answer(("no-such-command",))


def test_a_dry_run_prints_and_does_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(service, "carry_out", lambda *_: pytest.fail("it did something"))
    monkeypatch.setattr(service, "check", lambda: None)
    assert main(["service", "install", "--dry-run"]) == 0
    assert f"write {FILES[UNIT]}" in capsys.readouterr().out


def test_an_installation_without_its_files_says_so() -> None:
    with pytest.raises(ServiceError, match="install it again"):
        installed_text("no-such.file")

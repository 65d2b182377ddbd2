from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from tuf.api.exceptions import ExpiredMetadataError

from agent.errors import (
    ManifestError,
    MetadataDamaged,
    MetadataTooLarge,
    RepositoryError,
    UnknownTarget,
    UsageError,
)
from agent.fleet.home import Home
from agent.fleet.repo import Repo, build
from agent.fleet.repo.store import limit_of
from agent.package.tuf import client
from agent.package.verify import digest_of
from tests.unit.fleet.repo.desk import DAY, START, Node, Operator, manifest


@pytest.fixture
def desk(tmp_path: Path) -> Operator:
    return Operator(tmp_path).begin()


def test_a_new_repository_has_its_keys_and_files(tmp_path: Path) -> None:
    operator = Operator(tmp_path)
    outcome = operator.repo.init()
    away = {f"{name}.pem" for name in ("root-1", "root-2", "root-3", "targets")}
    assert {path.name for path in operator.home.offline.iterdir()} == away
    assert {path.name for path in operator.home.keys.iterdir()} == {"online.pem", "packages.pem"}
    assert {Path(path).name for path in outcome.made} == away | {"online.pem", "packages.pem"}
    assert all(stat.S_IMODE(Path(path).stat().st_mode) == 0o600 for path in outcome.made)
    assert stat.S_IMODE(operator.home.offline.stat().st_mode) == 0o700
    versioned = {"1.root.json", "1.targets.json", "1.packages.json", "1.snapshot.json"}
    assert operator.names() == {*versioned, "timestamp.json"} == set(outcome.published)
    assert (operator.home.repo / "root.json").read_bytes() == operator.files.read("1.root.json")
    root = json.loads(operator.files.read("1.root.json") or b"")["signed"]
    assert root["consistent_snapshot"] and root["roles"]["root"]["threshold"] == 2
    assert root["roles"]["snapshot"] == root["roles"]["timestamp"]
    timestamp = json.loads(operator.files.read("timestamp.json") or b"")["signed"]
    assert set(timestamp["meta"]["snapshot.json"]) == {"version", "length", "hashes"}
    assert not Node(operator, tmp_path / "node").finds()


def test_no_secret_is_in_what_nodes_get(desk: Operator) -> None:
    desk.add()
    for name in desk.names():
        assert b"PRIVATE" not in (desk.files.read(name) or b"")


def test_there_is_one_repository_and_its_keys_are_its_own(tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    Repo(Home(tmp_path / "one")).init(stick)
    with pytest.raises(UsageError, match=r"there is a repository in .*repo: overlaid fleet repo status"):
        Repo(Home(tmp_path / "one")).init(stick)
    with pytest.raises(UsageError, match=r"root-1\.pem exists, perhaps another repository's.*--offline DIR"):
        Repo(Home(tmp_path / "two")).init(stick)
    assert not (tmp_path / "two" / "keys").exists()


@pytest.mark.parametrize(
    "team", ["root", "targets", "snapshot", "timestamp", "online", "commands", "root-4", "A", "repo"]
)
def test_a_team_has_a_name_of_its_own(tmp_path: Path, desk: Operator, team: str) -> None:
    with pytest.raises(UsageError, match="team"):
        Repo(Home(tmp_path / "new")).init(team=team)
    with pytest.raises(UsageError, match="team"):
        desk.repo.delegate(team, ["digits/*"])


def test_without_a_repository_commands_say_how_to_make_one_and_make_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path / "fleet")
    repo = Repo(home)
    for call in (
        lambda: repo.add("net", "1", b""), lambda: repo.check("net", "1", b""), repo.renew, repo.status, repo.sign,
        lambda: repo.rotate("root"), lambda: repo.delegate("vision", ["a/*"]), lambda: repo.export(tmp_path / "out"),
    ):  # fmt: skip
        with pytest.raises(RepositoryError, match=f"make one: overlaid fleet repo init --home {home.path}"):
            call()
    assert list(tmp_path.iterdir()) == []


def test_what_is_added_may_be_installed(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    assert desk.add() == "packages"
    assert node.finds() and not node.finds(version="2.0.0")
    desk.add(version="2.0.0")
    assert node.finds() and node.finds(version="2.0.0")


def test_adding_again_changes_nothing_and_other_content_is_refused(desk: Operator) -> None:
    desk.add()
    before = desk.names()
    desk.add()
    assert desk.names() == before
    for call in (desk.repo.add, desk.repo.check):
        with pytest.raises(
            ManifestError, match=r"net 1\.0\.0 is published with other content .*raise version"
        ):
            call("net", "1.0.0", b"other")
    assert desk.names() == before


def test_adding_needs_no_offline_key_but_the_teams_and_the_online_one(desk: Operator) -> None:
    desk.lock_away()
    desk.add()
    for name, command in (("packages", "rotate packages"), ("online", "rotate online")):
        path = desk.home.keys / f"{name}.pem"
        secret = path.read_bytes()
        path.unlink()
        for call in (desk.repo.add, desk.repo.check):
            with pytest.raises(
                RepositoryError, match=rf"{name}\.pem, which is not in .*keys.*backup.*{command}"
            ):
                call("net", "2.0.0", manifest(version="2.0.0"))
        path.write_bytes(secret)
    desk.add(version="2.0.0")


def test_a_file_that_is_no_key_is_named(desk: Operator) -> None:
    (desk.home.keys / "online.pem").write_text("nonsense")
    with pytest.raises(RepositoryError, match=r"online\.pem is no Ed25519 key .*repo rotate"):
        desk.add()


def test_another_key_by_the_same_name_does_not_sign(tmp_path: Path, desk: Operator) -> None:
    other = Operator(tmp_path / "other").begin()
    (desk.home.keys / "packages.pem").write_bytes((other.home.keys / "packages.pem").read_bytes())
    with pytest.raises(RepositoryError, match=r"packages\.pem"):
        desk.add()


def test_timestamps_are_signed_once_a_day_and_snapshots_in_the_last_third(desk: Operator) -> None:
    assert not desk.repo.renew()
    desk.now = START + 0.9 * DAY
    assert not desk.repo.renew()
    desk.now = START + DAY
    assert desk.repo.renew() and not desk.repo.renew()
    assert desk.files.versions("snapshot") == [1]
    desk.now = START + 5 * DAY
    assert desk.repo.renew() and not desk.repo.renew()
    assert desk.files.versions("snapshot") == [1, 2]


def test_what_was_renewed_in_time_never_expires(tmp_path: Path, desk: Operator) -> None:
    desk.add()
    node, late = Node(desk, tmp_path / "node"), Node(desk, tmp_path / "late")
    for _ in range(30):
        desk.now += DAY
        desk.repo.renew()
        assert node.finds()
    desk.now += 7 * DAY
    with pytest.raises(ExpiredMetadataError):
        late.finds()
    assert desk.repo.renew()
    assert late.finds()


def test_old_versions_are_forgotten_but_roots(desk: Operator) -> None:
    for number in range(14):
        desk.add(version=f"{number}.0.0")
    assert desk.files.versions("packages") == list(range(6, 16))
    assert desk.files.versions("snapshot") == list(range(6, 16))
    assert desk.files.versions("root") == [1]


def test_a_folder_gets_what_nodes_need_from_any_root_on(tmp_path: Path, desk: Operator) -> None:
    desk.add()
    desk.repo.rotate("root")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old.json").write_text("")
    desk.repo.export(tmp_path / "out")
    names = {
        "1.root.json",
        "2.root.json",
        "1.targets.json",
        "2.packages.json",
        "2.snapshot.json",
        "timestamp.json",
    }
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert all((tmp_path / "out" / name).read_bytes() == desk.files.read(name) for name in names)


def test_metadata_that_nodes_would_not_take_is_refused(
    desk: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.add()
    before = desk.names()
    size = len(desk.files.read("2.packages.json") or b"")
    monkeypatch.setattr(build, "limit_of", lambda role: size if role == "packages" else 1 << 20)
    with pytest.raises(
        MetadataTooLarge, match=rf"packages would have .* nodes take {size}.*repo delegate TEAM"
    ):
        desk.add(version="2.0.0")
    assert desk.names() == before


def test_limits_are_those_of_nodes() -> None:
    for role in ("root", "timestamp", "snapshot", "targets", "packages"):
        assert limit_of(role) == client.LIMITS.get(role, client.TARGETS_LIMIT)


@pytest.mark.parametrize(
    "name", ["1.root.json", "1.targets.json", "2.packages.json", "2.snapshot.json", "timestamp.json"]
)
@pytest.mark.parametrize("damage", ["changed", "lost", "nonsense", "another's"])
def test_what_was_changed_on_the_disk_is_never_signed(
    tmp_path: Path, desk: Operator, name: str, damage: str
) -> None:
    desk.add()
    path = desk.files.metadata / name
    if damage == "changed":
        path.write_bytes(path.read_bytes().replace(b'"_type"', b'"_Type":1,"_type"'))
    elif damage == "nonsense":
        path.write_bytes(b"{}")
    elif damage == "lost":
        path.unlink()
    else:
        other = Operator(tmp_path / "other").begin()
        other.add()
        path.write_bytes(other.files.read(name) or b"")
    before = desk.names()
    for call in (lambda: desk.add(version="2.0.0"), desk.repo.sign, desk.repo.renew, desk.repo.status):
        with pytest.raises(MetadataDamaged):
            call()
    assert desk.names() == before


def test_status_says_what_is_there_and_what_to_do(desk: Operator) -> None:
    status = desk.repo.status()
    assert [role.role for role in status.roles] == ["root", "targets", "packages", "snapshot", "timestamp"]
    root, _, packages, _, timestamp = status.roles
    assert (root.version, root.threshold, root.days, root.expires) == (1, 2, 365.0, START + 365 * DAY)
    assert [key.name for key in root.keys if key.here] == ["root-1", "root-2", "root-3"]
    assert (packages.patterns, packages.targets) == (("*/*",), 0)
    assert timestamp.days == 7.0
    assert [step.split(":")[0] for step in status.next] == [
        f"move {desk.home.offline} to a safe place, the keys of root to different ones",
        "let nodes install a package",
    ]
    desk.lock_away()
    desk.add()
    status = desk.repo.status()
    assert status.targets == 1 and status.next == () and not status.expired
    assert not any(key.here for key in status.roles[0].keys)
    (desk.home.keys / "online.pem").unlink()
    (step,) = desk.repo.status().next
    assert "online.pem from a backup" in step and "repo rotate online" in step


def test_status_says_in_time_what_expires(desk: Operator) -> None:
    desk.lock_away()
    desk.add()
    desk.now += 250 * DAY
    status = desk.repo.status()
    assert status.expired and [role.role for role in status.roles if role.expired] == [
        "snapshot",
        "timestamp",
    ]
    root, targets, packages, timestamp = status.next
    assert root.startswith("root expires in 115 days") and "needs 2 of root-1.pem or root-2.pem" in root
    assert "--offline" in root and "--offline" in targets
    assert packages.startswith("packages expires in 115 days") and "--offline" not in packages
    assert timestamp.startswith("timestamp has expired") and "serve" in timestamp
    desk.repo.renew()
    assert not desk.repo.status().expired


def test_a_repository_that_lost_its_root_is_not_made_anew(desk: Operator) -> None:
    (desk.files.metadata / "1.root.json").unlink()
    desk.lock_away()
    with pytest.raises(UsageError, match="there is a repository"):
        desk.repo.init()


def test_the_agents_own_client_finds_what_was_added(tmp_path: Path, desk: Operator) -> None:
    root = (desk.home.repo / "root.json").read_bytes()
    desk.repo.delegate("vision", ["digits/*"])
    desk.repo.rotate("root")
    desk.add("digits")
    request = client.Request(root, tmp_path / "node", desk.now, "digits/1.0.0.json")
    found = client.find(request, lambda name, _: desk.files.read(name))
    data = manifest("digits")
    assert found == client.Found(len(data), digest_of(data), "vision")
    with pytest.raises(UnknownTarget):
        client.find(replace(request, path="digits/2.0.0.json"), lambda name, _: desk.files.read(name))

"""Keys and teams that change, as nodes see it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tuf.api.exceptions import BadVersionNumberError, UnsignedMetadataError

from agent.errors import MetadataDamaged, RepositoryError, UsageError
from agent.fleet.repo.repo import Outcome
from tests.unit.fleet.repo.desk import DAY, Node, Operator


@pytest.fixture
def desk(tmp_path: Path) -> Operator:
    return Operator(tmp_path).begin()


def signers(desk: Operator, role: str) -> list[str]:
    return [key.name for each in desk.repo.status().roles if each.role == role for key in each.keys]


def test_a_node_with_the_first_root_follows_everything(tmp_path: Path, desk: Operator) -> None:
    always, late = Node(desk, tmp_path / "always"), Node(desk, tmp_path / "late")
    desk.add()
    steps: tuple[Callable[[], Outcome], ...] = (
        lambda: desk.repo.rotate("root"), lambda: desk.repo.rotate("packages"), lambda: desk.repo.rotate("online"),
        lambda: desk.repo.rotate("targets"), lambda: desk.repo.delegate("vision", ["digits/*"]),
        lambda: desk.repo.rotate("vision"), lambda: desk.repo.rotate("root", lost="root-5"),
    )  # fmt: skip
    for number, step in enumerate(steps):
        assert not step().waiting
        assert always.finds()
        desk.add(version=f"2.{number}")
        desk.add("digits", f"2.{number}")
        assert always.finds(version=f"2.{number}") and always.finds("digits", f"2.{number}")
    assert late.finds("digits", "2.6") and late.finds("digits", "2.0") and late.finds()
    assert signers(desk, "root") == ["root-4", "root-6", "root-7"]
    assert signers(desk, "timestamp") == signers(desk, "snapshot") == ["online.2"]
    assert (signers(desk, "vision"), signers(desk, "targets")) == (["vision.2"], ["targets.2"])


def test_one_lost_key_of_root_is_replaced_by_the_other_two(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    (desk.home.offline / "root-2.pem").unlink()
    outcome = desk.repo.rotate("root", lost="root-2")
    assert outcome.published == ("2.root.json",) and not outcome.waiting
    assert [Path(path).name for path in outcome.made] == ["root-4.pem"] and outcome.retired == ("root-2",)
    assert signers(desk, "root") == ["root-1", "root-3", "root-4"]
    desk.add()
    assert node.finds()
    (desk.home.offline / "root-1.pem").unlink()
    assert not desk.repo.rotate("root", lost="root-1").waiting
    assert node.finds()


def test_keys_on_several_sticks_sign_one_after_the_other(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    safe, sticks = desk.lock_away(), {}
    for number in (1, 2, 3):
        sticks[number] = tmp_path / f"stick-{number}"
        sticks[number].mkdir()
        (safe / f"root-{number}.pem").rename(sticks[number] / f"root-{number}.pem")
    with pytest.raises(
        RepositoryError, match=r"root-1\.pem or root-3\.pem, which is not here .*--offline DIR"
    ):
        desk.repo.rotate("root", [sticks[2]], lost="root-2")
    assert [path.name for path in sticks[2].iterdir()] == ["root-2.pem"]

    outcome = desk.repo.rotate("root", [sticks[1]], lost="root-2")
    assert outcome.published == () and (sticks[1] / "root-4.pem").exists()
    (waiting,) = outcome.waiting
    assert (waiting.role, waiting.version, waiting.missing) == ("root", 2, 1)
    assert (waiting.signed, waiting.may_sign) == (("root-1", "root-4"), ("root-3",))
    desk.add()  # what is staged holds nobody up
    status = desk.repo.status()
    assert status.staged == (waiting,)
    assert "root 2 waits for 1 more of: root-3.pem" in status.next[0] and "remove" in status.next[1]
    assert desk.repo.sign([safe]).waiting == (waiting,)
    assert node.finds() and desk.files.versions("root") == [1]

    outcome = desk.repo.sign([sticks[3]])
    assert outcome.published == ("2.root.json",) and desk.repo.status().staged == ()
    assert node.finds() and desk.repo.sign([sticks[3]]).published == ()


def test_all_keys_of_root_change_with_two_old_ones(desk: Operator, tmp_path: Path) -> None:
    node = Node(desk, tmp_path / "node")
    safe = desk.lock_away("root-1", "root-2")
    (waiting,) = desk.repo.rotate("root").waiting
    assert (waiting.signed, waiting.may_sign) == (
        ("root-3", "root-4", "root-5", "root-6"),
        ("root-1", "root-2"),
    )
    assert not desk.repo.sign([safe]).waiting
    desk.add()
    assert node.finds()
    shutil.rmtree(safe)
    assert not desk.repo.rotate("root", lost="root-4").waiting


def test_changes_that_wait_are_published_together(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    safe = desk.lock_away("root-1", "root-2")
    desk.add("digits")
    assert [each.role for each in desk.repo.rotate("targets").waiting] == ["root"]
    outcome = desk.repo.delegate("vision", ["digits/*"])
    assert [each.role for each in outcome.waiting] == ["root"] and outcome.published == ()
    assert desk.add("digits", "2") == "packages" and node.finds("digits", "2")
    desk.repo.rotate("online")
    assert set(desk.repo.sign([safe]).published) == {
        "2.root.json", "2.targets.json", "1.vision.json", "4.snapshot.json", "timestamp.json",
    }  # fmt: skip
    assert node.finds("digits") and node.finds("digits", "2")
    assert desk.add("digits", "3") == "vision" and node.finds("digits", "3")


def test_what_is_staged_may_be_damaged_or_done_already(desk: Operator) -> None:
    safe = desk.lock_away("root-1", "root-2")
    desk.repo.rotate("root", lost="root-2")
    staged = desk.home.repo / "staged" / "change.json"
    kept = staged.read_bytes()
    for damage in (b"", b"[]", b'{"root": 1}', b'{"root": {"signed": {"_type": "timestamp"}}}'):
        staged.write_bytes(damage)
        with pytest.raises(MetadataDamaged, match=r"change\.json: damaged; remove it"):
            desk.repo.sign([safe])
    staged.write_bytes(kept)
    desk.repo.sign([safe])
    staged.write_bytes(kept)  # as if the machine had stopped before it was removed
    assert desk.repo.status().staged == () and desk.repo.sign().published == ()
    assert not staged.exists()


def test_a_forged_signature_does_not_count(desk: Operator) -> None:
    desk.lock_away("root-1", "root-2")
    desk.repo.rotate("root", lost="root-2")
    staged = desk.home.repo / "staged" / "change.json"
    values = json.loads(staged.read_bytes())
    ids = {key["x-overlaid-name"]: keyid for keyid, key in values["root"]["signed"]["keys"].items()}
    values["root"]["signatures"].append({"keyid": ids["root-1"], "sig": "00" * 64})
    staged.write_text(json.dumps(values))
    (waiting,) = desk.repo.sign().waiting
    assert waiting.may_sign == ("root-1",) and desk.files.versions("root") == [1]


def test_a_team_signs_its_models_and_nobody_elses(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    desk.add("digits")
    desk.add("sums")
    outcome = desk.repo.delegate("vision", ["digits/*", "camera-*/*"])
    assert [Path(path).name for path in outcome.made] == ["vision.pem"]
    assert node.finds("digits") and node.finds("sums")
    assert [desk.add(name, "2") for name in ("digits", "camera-3", "sums")] == [
        "vision",
        "vision",
        "packages",
    ]
    assert node.finds("digits", "2") and node.finds("camera-3", "2") and node.finds("sums", "2")
    with pytest.raises(
        UsageError, match=r"digits is signed by team vision, whose pattern digits/\* matches, not by packages"
    ):
        desk.add("digits", "3", team="packages")
    with pytest.raises(UsageError, match=r"sums is signed by team packages, whose pattern \*/\*"):
        desk.add("sums", "3", team="vision")
    counts = {role.role: role.targets for role in desk.repo.status().roles if role.patterns}
    assert counts == {"vision": 3, "packages": 2}
    assert not desk.repo.delegate("vision", ["sums/*"]).made
    assert node.finds("sums") and node.finds("sums", "2")


def test_without_the_teams_key_its_models_stay_as_they_are(tmp_path: Path, desk: Operator) -> None:
    desk.repo.delegate("vision", ["digits/*"])
    desk.add("digits")
    (desk.home.keys / "vision.pem").unlink()
    desk.add("sums")
    with pytest.raises(RepositoryError, match=r"vision\.pem.*repo rotate vision"):
        desk.add("digits", "2")
    desk.repo.rotate("vision")
    desk.add("digits", "2")
    node = Node(desk, tmp_path / "node")
    assert node.finds("digits") and node.finds("digits", "2")


@pytest.mark.parametrize(
    ("team", "patterns", "said"),
    [
        ("packages", ["a/*"], "signs everything"),
        ("vision", ["digits/*"], "signs digits/\\* already"),
        ("audio", ["digits/*"], "overlaps with digits/\\*, which team vision signs"),
        ("audio", ["new/*", "dig*/*"], "overlaps"),
        ("audio", ["*/*"], "is not like"),
        ("audio", ["new"], "is not like"),
        ("audio", ["new/1.0.json"], "is not like"),
        ("audio", ["../*"], "is not like"),
        ("audio", ["[a-z]/*"], "is not like"),
    ],
)
def test_patterns_are_models_that_no_other_team_has(
    desk: Operator, team: str, patterns: list[str], said: str
) -> None:
    desk.repo.delegate("vision", ["digits/*"])
    before = desk.names()
    with pytest.raises(UsageError, match=said):
        desk.repo.delegate(team, patterns)
    assert desk.names() == before and not (desk.home.keys / "audio.pem").exists()


@pytest.mark.parametrize(
    ("role", "lost", "said"),
    [
        ("nobody", None, "'nobody' is no role; there are root, targets, online, packages"),
        ("snapshot", None, "rotate online"),
        ("timestamp", None, "rotate online"),
        ("root", "root-9", "root has no key 'root-9'; it has root-1, root-2, root-3"),
        ("packages", "vision", "packages has no key 'vision'; it has packages"),
    ],
)
def test_what_cannot_be_rotated(desk: Operator, role: str, lost: str | None, said: str) -> None:
    before = {path for path in desk.home.path.rglob("*")}
    with pytest.raises(UsageError, match=said):
        desk.repo.rotate(role, lost=lost)
    assert {path for path in desk.home.path.rglob("*")} == before


def test_offline_keys_are_asked_for_by_name(desk: Operator, tmp_path: Path) -> None:
    safe = desk.lock_away()
    targets = r"targets\.pem, which is not here \(looked into .*offline.*\); .*--offline DIR"
    calls: tuple[tuple[Callable[[], Outcome], str], ...] = (
        (lambda: desk.repo.delegate("vision", ["a/*"]), targets),
        (lambda: desk.repo.rotate("packages"), targets),
        (lambda: desk.repo.rotate("online"), r"root-1\.pem or root-2\.pem or root-3\.pem"),
        (lambda: desk.repo.rotate("targets"), r"root-1\.pem or root-2\.pem or root-3\.pem"),
    )
    for call, said in calls:
        with pytest.raises(RepositoryError, match=said):
            call()
    with pytest.raises(UsageError, match="there is no such folder"):
        desk.repo.sign([tmp_path / "nowhere"])
    assert {path.name for path in desk.home.keys.iterdir()} == {"online.pem", "packages.pem"}
    assert not desk.repo.rotate("online", [safe]).waiting


def test_sign_renews_what_expires_as_far_as_keys_are_here(tmp_path: Path, desk: Operator) -> None:
    node, safe = Node(desk, tmp_path / "node"), desk.lock_away()
    desk.add()
    assert desk.repo.sign([safe]).published == ()
    desk.now += 300 * DAY
    published = desk.repo.sign().published
    assert set(published) == {"3.packages.json", "3.snapshot.json", "timestamp.json"}
    (safe / "root-1.pem").rename(tmp_path / "root-1.pem")
    (safe / "root-2.pem").rename(tmp_path / "root-2.pem")
    assert [each.role for each in desk.repo.sign([safe]).waiting] == ["root"]
    outcome = desk.repo.sign([tmp_path])
    assert {"2.root.json", "2.targets.json"} <= set(outcome.published)
    desk.now += 300 * DAY
    desk.repo.renew()
    desk.repo.sign()
    assert node.finds() and Node(desk, tmp_path / "new").finds()


def test_an_expired_root_is_signed_anew(tmp_path: Path, desk: Operator) -> None:
    node = Node(desk, tmp_path / "node")
    desk.now += 400 * DAY
    desk.add()
    assert desk.repo.status().expired
    desk.repo.sign()
    assert not desk.repo.status().expired and node.finds()


def test_rotating_online_cures_a_repository_restored_from_an_old_backup(
    tmp_path: Path, desk: Operator
) -> None:
    desk.add()
    shutil.copytree(desk.home.path, tmp_path / "backup")
    node = Node(desk, tmp_path / "node")
    for number in range(5):
        desk.add(version=f"2.{number}")
    assert node.finds()
    desk.lock_away()
    shutil.rmtree(desk.home.path)
    shutil.copytree(tmp_path / "backup", desk.home.path)
    desk.add(version="3.0")
    with pytest.raises(BadVersionNumberError):
        node.finds(version="3.0")
    desk.repo.rotate("online")
    assert node.finds(version="3.0")


def test_a_backup_from_before_the_last_root_needs_it_twice(tmp_path: Path, desk: Operator) -> None:
    desk.add()
    shutil.copytree(desk.home.path, tmp_path / "backup")
    node = Node(desk, tmp_path / "node")
    desk.repo.rotate("online")
    assert node.finds()
    shutil.rmtree(desk.home.path)
    shutil.copytree(tmp_path / "backup", desk.home.path)
    desk.repo.rotate("online")
    with pytest.raises(UnsignedMetadataError):
        node.finds()
    desk.repo.rotate("online")
    assert node.finds()

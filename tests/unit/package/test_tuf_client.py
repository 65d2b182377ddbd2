"""The client against a real repository: what it finds, what it fetches, what it keeps, and how it says no."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner

from agent.errors import (
    MetadataDamaged,
    MetadataExpired,
    MetadataMismatch,
    MetadataMissing,
    MetadataRollback,
    MetadataTooLarge,
    RepositoryError,
    StoreError,
    UnknownTarget,
    WrongKeys,
)
from agent.package.tuf.client import TIMESTAMP_LIMIT, Found, Request, find
from tests.fuzz.delivery import damage_json
from tests.unit.package.repository import DAY, NOW, MadeRepository, snapshot_goes_back, team_goes_back

PATH, DATA = "digits/1.0.0.json", b"the manifest"
FOUND = Found(len(DATA), hashlib.sha256(DATA).hexdigest(), "packages")


@pytest.fixture
def repo() -> MadeRepository:
    made = MadeRepository()
    made.add(PATH, DATA)
    return made


class Node:
    """What one node has seen, across questions. ``now``: its clock."""

    def __init__(self, folder: Path, root: bytes) -> None:
        self.folder, self.root, self.now = folder / "repo", root, NOW

    def find(self, repo: MadeRepository, path: str = PATH, keep_newer: bool = False) -> Found:
        repo.asked.clear()
        return find(Request(self.root, self.folder, self.now, path, keep_newer), repo.get)

    def refuses(self, repo: MadeRepository, error: type[RepositoryError], path: str = PATH) -> str:
        """The text of the error, which is this one exactly, and short enough to be stored and sent whole."""
        with pytest.raises(error) as caught:
            self.find(repo, path)
        assert (
            type(caught.value) is error and len(str(caught.value)) <= 500 and "overlaid" in str(caught.value)
        )
        return str(caught.value)


@pytest.fixture
def node(tmp_path: Path, repo: MadeRepository) -> Node:
    return Node(tmp_path, repo.given)


def test_a_published_target_is_found_with_who_signed_for_it(node: Node, repo: MadeRepository) -> None:
    assert node.find(repo) == FOUND
    assert repo.asked == [
        "2.root.json",
        "timestamp.json",
        "2.snapshot.json",
        "1.targets.json",
        "2.packages.json",
    ]
    assert node.find(repo) == FOUND
    assert repo.asked == ["2.root.json", "timestamp.json"]
    repo.add("digits/2.0.0.json", b"more")
    assert node.find(repo, "digits/2.0.0.json").length == 4
    assert repo.asked == ["2.root.json", "timestamp.json", "3.snapshot.json", "3.packages.json"]


def test_a_team_signs_for_its_names_alone(node: Node, repo: MadeRepository) -> None:
    repo.delegate("vision", ["cam*/*"])
    repo.add("camera/1.json", b"x", "vision")
    assert node.find(repo, "camera/1.json").role == "vision"
    repo.add("camera/2.json", b"x")  # by the others, whose turn does not come
    assert "vision version" in node.refuses(repo, UnknownTarget, "camera/2.json")
    repo.add("digits/7.json", b"x", "vision")
    node.refuses(repo, UnknownTarget, "digits/7.json")
    assert node.find(repo) == FOUND


def test_who_is_no_member_of_the_repository_signs_for_nothing(node: Node, repo: MadeRepository) -> None:
    assert PATH.replace("1.0", "9.9") in node.refuses(repo, UnknownTarget, "digits/9.9.0.json")


@pytest.mark.parametrize(
    ("role", "next_step"),
    [("root", "repo sign"), ("targets", "repo sign"), ("packages", "repo sign"), ("snapshot", "fleet serve"),
     ("timestamp", "fleet serve")],
)  # fmt: skip
def test_what_expired_says_when_and_by_which_clock(
    node: Node, repo: MadeRepository, role: str, next_step: str
) -> None:
    repo.expire(role, NOW + DAY)
    assert node.find(repo) == FOUND
    node.now = NOW + 2 * DAY
    text = node.refuses(repo, MetadataExpired)
    version = repo.metadata[role].signed.version
    assert f"{role} version {version}" in text and next_step in text
    assert "2026-09-22" in text and "2026-09-23" in text and "clock" in text
    repo.now = node.now
    if role in ("root", "timestamp"):
        repo.renew(role)
    if role != "timestamp":
        repo.publish(*() if role in ("root", "snapshot") else (role,))
    assert node.find(repo) == FOUND


def test_nothing_more_is_fetched_once_a_timestamp_expired(node: Node, repo: MadeRepository) -> None:
    node.now = NOW + 8 * DAY
    node.refuses(repo, MetadataExpired)
    assert repo.asked == ["2.root.json", "timestamp.json"]


def test_an_older_state_is_a_rollback_and_of_a_folder_it_is_not(node: Node, repo: MadeRepository) -> None:
    old = repo.copy()
    repo.add("digits/2.0.0.json", b"more")
    node.find(repo)
    text = node.refuses(old, MetadataRollback)
    assert "timestamp version 2 is older than timestamp version 3" in text
    assert node.find(old, keep_newer=True) == FOUND
    assert node.find(old, "digits/2.0.0.json", keep_newer=True).length == 4
    assert node.find(repo) == FOUND


def test_an_older_folder_may_lack_what_a_newer_state_names(node: Node, repo: MadeRepository) -> None:
    repo.delegate("vision", ["cam*/*"])
    repo.add("camera/1.json", b"x", "vision")
    old = repo.copy()
    repo.add("camera/2.json", b"x", "vision")
    node.find(repo)
    with pytest.raises(MetadataMissing, match=r"3.vision.json.*older"):
        node.find(old, "camera/1.json", keep_newer=True)


def test_a_folder_with_a_damaged_timestamp_is_refused(node: Node, repo: MadeRepository) -> None:
    node.find(repo)
    repo.files["timestamp.json"] = b"{}"
    with pytest.raises(MetadataDamaged):
        node.find(repo, keep_newer=True)


def test_after_a_rotation_the_folders_timestamp_counts_although_its_number_is_lower(
    node: Node, repo: MadeRepository
) -> None:
    repo.metadata["timestamp"].signed.version = 1000  # by whoever stole the key
    repo.renew("timestamp")
    node.find(repo)
    repo.metadata["timestamp"].signed.version = 2
    repo.rotate("timestamp")
    assert node.find(repo, keep_newer=True) == FOUND
    assert node.find(repo) == FOUND


def mixed_snapshot(repo: MadeRepository) -> None:
    repo.files["3.snapshot.json"] = repo.files["2.snapshot.json"]


def foreign_team(repo: MadeRepository) -> None:
    repo.files["3.packages.json"] = repo.files["1.targets.json"]


def another_type(repo: MadeRepository) -> None:
    repo.files["timestamp.json"] = repo.files["2.snapshot.json"]


def forgets_a_team(repo: MadeRepository) -> None:
    del repo.metadata["snapshot"].signed.meta["packages.json"]
    del repo.metadata["packages"]
    repo.publish()


def stranger_signs(repo: MadeRepository) -> None:
    repo.metadata["timestamp"].signed.version += 1
    repo.write("timestamp", [CryptoSigner.generate_ed25519()])


def one_root_key_signs(repo: MadeRepository) -> None:
    repo.metadata["root"].signed.version += 1
    repo.write("root", repo.signers["root"][:1])


def endless_timestamp(repo: MadeRepository) -> None:
    repo.files["timestamp.json"] += b" " * TIMESTAMP_LIMIT


def endless_snapshot(repo: MadeRepository) -> None:
    repo.files["3.snapshot.json"] = bytes(1 << 20)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (mixed_snapshot, MetadataMismatch, "3.snapshot.json (snapshot version 2)"),
        (foreign_team, MetadataMismatch, "3.packages.json"),
        (another_type, MetadataMismatch, "timestamp.json"),
        (forgets_a_team, MetadataRollback, "leaves out"),
        (team_goes_back, MetadataRollback, "snapshot version 4"),
        (snapshot_goes_back, MetadataRollback, "with snapshot version 1 is older than snapshot version 2"),
        (stranger_signs, WrongKeys, "timestamp.json (timestamp version 4)"),
        (one_root_key_signs, WrongKeys, "2.root.json (root version 2)"),
        (endless_timestamp, MetadataTooLarge, "16384 bytes"),
        (endless_snapshot, MetadataTooLarge, "262144 bytes"),
        (lambda repo: repo.files.update({"timestamp.json": b"[" * 9000}), MetadataDamaged, "timestamp.json"),
        (lambda repo: repo.files.pop("timestamp.json"), MetadataMissing, "timestamp.json"),
        (lambda repo: repo.files.pop("3.packages.json"), MetadataMissing, "3.packages.json"),
    ],
)
def test_what_is_wrong_is_named_and_costs_nothing_that_was_seen(
    node: Node,
    repo: MadeRepository,
    damage: Callable[[MadeRepository], object],
    error: type[RepositoryError],
    says: str,
) -> None:
    node.find(repo)
    repo.add("digits/2.0.0.json", b"more")
    hostile = repo.copy()
    damage(hostile)
    for _ in range(2):
        assert says in node.refuses(hostile, error)
    repo.publish()  # the honest server goes on
    repo.publish()
    assert node.find(repo, "digits/2.0.0.json").length == 4


def test_keys_change_hands_with_one_root_key_lost(node: Node, repo: MadeRepository) -> None:
    node.find(repo)
    for role in ("root", "timestamp", "snapshot", "targets"):
        repo.rotate(role, lost=1 if role == "root" else 0)
        assert node.find(repo) == FOUND
    assert node.find(repo) == FOUND and repo.asked == ["6.root.json", "timestamp.json"]
    repo.rotate("root", lost=2)
    node.refuses(repo, WrongKeys)


def test_a_team_whose_name_is_no_files_name_is_refused(node: Node, repo: MadeRepository) -> None:
    repo.delegate("../team", ["*/*"])
    assert "a delegation" in node.refuses(repo, MetadataDamaged)


@pytest.mark.parametrize("given", [b"", b"{}", b"[" * 60_000, b'{"signed": 1, "signatures": []}'])
def test_a_root_that_is_none(tmp_path: Path, repo: MadeRepository, given: bytes) -> None:
    with pytest.raises(MetadataDamaged, match=r"repo/root\.json"):
        Node(tmp_path, given).find(repo)


def test_a_root_that_is_not_signed_by_its_own_keys(tmp_path: Path, repo: MadeRepository) -> None:
    with pytest.raises(WrongKeys, match=r"\[trust\] root"):
        Node(tmp_path, repo.given.replace(b'"threshold":2', b'"threshold":3')).find(repo)
    with pytest.raises(MetadataDamaged, match=r"\[trust\] root"):
        Node(tmp_path, repo.files["1.targets.json"]).find(repo)


def test_another_operators_repository_is_refused_and_leaves_no_trace(
    node: Node, repo: MadeRepository
) -> None:
    node.find(repo)
    other = MadeRepository()
    other.add(PATH, b"something else")
    other.publish()
    assert "[trust] root" in node.refuses(other, WrongKeys)
    assert node.find(repo) == FOUND
    assert (
        Node(node.folder.parent, other.given).find(other).length == 14
    )  # a node that is given to another operator


@pytest.mark.parametrize("damage", [b"", b"{}", b"\0" * 600])
def test_files_that_a_power_cut_spoiled_are_fetched_again(
    node: Node, repo: MadeRepository, damage: bytes
) -> None:
    repo.rotate("timestamp")
    node.find(repo)
    for path in [path for path in node.folder.rglob("*") if path.is_file()]:
        path.write_bytes(damage)
        assert node.find(repo) == FOUND


def test_what_a_kill_left_is_removed_and_nothing_is_written_twice(node: Node, repo: MadeRepository) -> None:
    node.find(repo)
    (node.folder / "timestamp.json.abc.tmp").write_bytes(b"half")
    before = {path: path.stat().st_ino for path in node.folder.rglob("*.json")}
    node.find(repo)
    assert {path: path.stat().st_ino for path in node.folder.rglob("*") if path.is_file()} == before
    assert len(before) == 6


def test_a_disk_that_refuses_is_a_store_error(node: Node, repo: MadeRepository) -> None:
    node.folder.write_bytes(b"in the folder's place")
    with pytest.raises(StoreError):
        node.find(repo)


def test_what_the_source_raises_comes_through(node: Node, repo: MadeRepository) -> None:
    class Gone(Exception): ...

    def gone(_name: str, _limit: int) -> bytes | None:
        raise Gone

    with pytest.raises(Gone):
        find(Request(repo.given, node.folder, NOW, PATH), gone)


def test_a_target_without_its_digest_is_refused(node: Node, repo: MadeRepository) -> None:
    repo.metadata["packages"].signed.targets[PATH].hashes = {"sha512": "00"}
    repo.publish("packages")
    node.refuses(repo, MetadataDamaged)


def test_clocks_beyond_all_years(node: Node, repo: MadeRepository) -> None:
    node.now = 1e18
    node.refuses(repo, MetadataExpired)
    node.now = -1.0
    assert node.find(repo) == FOUND
    assert json.loads((node.folder / "timestamp.json").read_bytes())["signed"]["version"] == 2


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_what_a_stolen_key_signs_is_taken_or_refused_by_name(tmp_path: Path, first: int) -> None:
    """Damaged places in a file that is signed and named by the right keys all the same, where that can be."""
    honest = MadeRepository()
    honest.add(PATH, DATA)
    for meta in (
        honest.metadata["timestamp"].signed.snapshot_meta,
        *honest.metadata["snapshot"].signed.meta.values(),
    ):
        meta.hashes = meta.length = None
    for role in ("snapshot", "timestamp"):
        honest.write(role)
    outcomes = set()
    for seed in range(first, first + 40):
        rng, repo = random.Random(seed), honest.copy()
        role = rng.choice(["timestamp", "snapshot", "targets", "packages", "root"])
        name = (
            "timestamp.json" if role == "timestamp" else f"{repo.metadata[role].signed.version}.{role}.json"
        )
        document = json.loads(damage_json(rng, repo.files[name]))
        with contextlib.suppress(Exception):  # what has no canonical form cannot be signed
            signed = (encode_canonical(document["signed"]) or "").encode()
            document["signatures"] = [signer.sign(signed).to_dict() for signer in repo.signers[role]]
        repo.files["2.root.json" if role == "root" else name] = json.dumps(document).encode()
        try:
            outcomes.add(Node(tmp_path / str(seed), repo.given).find(repo).role)
        except RepositoryError as error:
            outcomes.add(error.name)
            assert len(str(error)) <= 500 and str(error).isprintable()
    assert {"packages", "MetadataDamaged"} <= outcomes

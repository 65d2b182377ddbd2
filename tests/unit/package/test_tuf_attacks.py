"""Attacks on the repository, by their names in the TUF specification, against the client and a real repository.

What each refusal must leave behind: the node has what it had, and the honest server goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.formats import encode_canonical
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, TargetFile, Targets

from agent.deploy.journal import Journal
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
from agent.hours import PLAUSIBLE_TIME
from agent.package import disk
from agent.package.tuf import client
from agent.package.tuf.client import ROOT_LIMIT, SNAPSHOT_LIMIT, TARGETS_LIMIT, TIMESTAMP_LIMIT
from agent.package.tuf.thread import ThreadVerifier
from agent.types import DesiredState
from tests.unit.package.killing import killed
from tests.unit.package.repository import DAY, NOW, TEAM, MadeRepository, snapshot_goes_back, team_goes_back
from tests.unit.package.test_tuf_client import DATA, FOUND, PATH, Node

NEXT, MORE = "digits/2.0.0.json", b"more"
Change = Callable[[MadeRepository], object]
Attack = tuple[type[RepositoryError], str, Change]


@pytest.fixture
def repo() -> MadeRepository:
    """One target, and a team that may sign for cameras alone."""
    made = MadeRepository()
    made.delegate("vision", ["cam*/*"])
    made.add(PATH, DATA)
    return made


@pytest.fixture
def node(tmp_path: Path, repo: MadeRepository) -> Node:
    it = Node(tmp_path, repo.given)
    it.find(repo)
    return it


def content(folder: Path) -> dict[str, bytes]:
    """What a node trusts, by file."""
    return {path.name: path.read_bytes() for path in folder.rglob("*.json") if not path.is_symlink()}


def named(repo: MadeRepository, role: str) -> str:
    """The file of a role's newest version."""
    return "timestamp.json" if role == "timestamp" else f"{repo.metadata[role].signed.version}.{role}.json"


def signatures(repo: MadeRepository, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(repo.files[name])["signatures"]
    return found


def resign(repo: MadeRepository, name: str, **changes: Any) -> None:
    """Change a file as JSON without its signer."""
    repo.files[name] = json.dumps(json.loads(repo.files[name]) | changes).encode()


class Wire:
    """A repository as the daemon asks for it."""

    keep_newer = False

    def __init__(self, repo: MadeRepository) -> None:
        self._repo = repo

    async def metadata(self, name: str, limit: int) -> bytes | None:
        return self._repo.get(name, limit)


# -- attacks after a publication that the node has not seen -----------------------------------------------------------


def timestamp_that_goes_back(repo: MadeRepository) -> None:
    repo.renew("timestamp", 1)


def snapshot_in_which_targets_go_back(repo: MadeRepository) -> None:
    repo.metadata["targets"].signed.version = 1
    repo.write("targets")
    repo.publish()


def snapshot_before_under_the_new_name(repo: MadeRepository) -> None:
    version = repo.metadata["snapshot"].signed.version
    repo.files[f"{version}.snapshot.json"] = repo.files[f"{version - 1}.snapshot.json"]


def targets_of_another_snapshot(repo: MadeRepository) -> None:
    other = repo.copy()
    other.metadata[TEAM].signed.targets[PATH] = TargetFile.from_data(PATH, b"else", ["sha256"])
    other.write(TEAM)  # of the right version, by the right key
    repo.files[named(repo, TEAM)] = other.files[named(repo, TEAM)]


def team_before_under_the_new_name(repo: MadeRepository) -> None:
    version = repo.metadata[TEAM].signed.version
    repo.files[f"{version}.{TEAM}.json"] = repo.files[f"{version - 1}.{TEAM}.json"]


def other_bytes_of_the_right_version(repo: MadeRepository) -> None:
    repo.files[named(repo, TEAM)] += b" "


def team_that_the_snapshot_lacks(repo: MadeRepository) -> None:
    repo.delegate("digit-team", ["digits/*"])
    del repo.metadata["digit-team"], repo.metadata["snapshot"].signed.meta["digit-team.json"]
    repo.publish()


def root_given_out_as_the_next(repo: MadeRepository) -> None:
    repo.files["2.root.json"] = repo.files["1.root.json"]


def root_that_skips_a_version(repo: MadeRepository) -> None:
    repo.rotate("root")
    repo.rotate("root")
    repo.files["2.root.json"] = repo.files["3.root.json"]


def unsigned_root(repo: MadeRepository) -> None:
    repo.rotate("root")
    resign(repo, "2.root.json", signatures=[])


def root_that_one_key_signed(repo: MadeRepository) -> None:
    repo.rotate("root", lost=2)


def root_that_a_strangers_keys_signed(repo: MadeRepository) -> None:
    repo.files["2.root.json"] = MadeRepository().renew("root")


def root_that_one_key_signed_twice(repo: MadeRepository) -> None:
    root_that_one_key_signed(repo)
    one = signatures(repo, "2.root.json")
    resign(repo, "2.root.json", signatures=[*one, *one])


def root_that_one_key_signed_under_two_names(repo: MadeRepository) -> None:
    repo.metadata["root"].signed.version += 1
    repo.write("root", repo.signers["root"][:1])
    (one,) = signatures(repo, "2.root.json")
    other = one | {"keyid": repo.signers["root"][1].public_key.keyid}
    resign(repo, "2.root.json", signatures=[one, other])


def root_with_a_lower_threshold(repo: MadeRepository) -> None:
    repo.metadata["root"].signed.roles["root"].threshold = 1
    root_that_one_key_signed(repo)


def unsigned(role: str) -> Change:
    def change(repo: MadeRepository) -> None:
        repo.publish(*() if role in ("timestamp", "snapshot") else (role,))
        repo.write(role, [])
        name_again(repo, role)

    return change


def signed_by(role: str, other: str) -> Change:
    """The keys of another role, which are trusted for something else, sign."""

    def change(repo: MadeRepository) -> None:
        repo.publish(*() if role in ("timestamp", "snapshot") else (role,))
        repo.write(role, repo.signers[other])
        name_again(repo, role)

    return change


def name_again(repo: MadeRepository, role: str) -> None:
    """Let stolen online keys name a role's file as it is now."""
    metas = repo.metadata["snapshot"].signed.meta
    if role not in ("timestamp", "snapshot"):
        metas[f"{role}.json"] = repo._meta_file(role, named(repo, role))
        repo.renew("snapshot")
    if role != "timestamp":
        meta = repo._meta_file("snapshot", named(repo, "snapshot"))
        repo.metadata["timestamp"].signed.snapshot_meta = meta
        repo.renew("timestamp")


def expired(role: str) -> Change:
    return lambda repo: repo.expire(role, NOW - DAY)


def endless(role: str, limit: int) -> Change:
    """One byte more than may come."""

    def change(repo: MadeRepository) -> None:
        name = "2.root.json" if role == "root" else named(repo, role)
        repo.files[name] = repo.files.get(name, b"").ljust(limit + 1)

    return change


def length_that_lies(length: int) -> Change:
    """In what the online keys signed; the client's own limit is another."""

    def change(repo: MadeRepository) -> None:
        repo.publish(TEAM)
        repo.metadata["snapshot"].signed.meta[f"{TEAM}.json"].length = length
        repo.renew("snapshot")
        name_again(repo, "snapshot")

    return change


def versions_beyond_names(role: str) -> Change:
    def change(repo: MadeRepository) -> None:
        if role == "snapshot":
            repo.renew("snapshot", 2**63)
            name_again(repo, "snapshot")
        else:
            repo.metadata[role].signed.version = 2**63
            repo.publish(role)

    return change


def raw_timestamp(data: bytes) -> Change:
    return lambda repo: repo.files.update({"timestamp.json": data})


def of_specification(version: str) -> Change:
    def change(repo: MadeRepository) -> None:
        repo.metadata["timestamp"].signed.spec_version = version
        repo.renew("timestamp")

    return change


def key_twice_in_json(repo: MadeRepository) -> None:
    """The last one counts everywhere, so that what was verified is what is used."""
    forged = b', "signed": {"_type": "timestamp", "version": 99, "spec_version": "1.0.31"}}'
    repo.files["timestamp.json"] = repo.files["timestamp.json"].rstrip()[:-1] + forged


def changed_number(repo: MadeRepository) -> None:
    signed = json.loads(repo.files["timestamp.json"])["signed"]
    resign(repo, "timestamp.json", signed=signed | {"version": signed["version"] + 1})


ATTACKS: dict[str, Attack] = {
    "rollback: timestamp": (MetadataRollback, "timestamp version 1 is older", timestamp_that_goes_back),
    "rollback: snapshot": (MetadataRollback, "snapshot version 1", snapshot_goes_back),
    "rollback: targets": (
        MetadataRollback,
        "with targets version 1 is older than targets version 2",
        snapshot_in_which_targets_go_back,
    ),
    "rollback: team": (
        MetadataRollback,
        "with packages version 1 is older than packages version 2",
        team_goes_back,
    ),
    "freeze: root": (MetadataExpired, "root version 2", expired("root")),
    "freeze: timestamp": (MetadataExpired, "timestamp version", expired("timestamp")),
    "freeze: snapshot": (MetadataExpired, "snapshot version", expired("snapshot")),
    "freeze: targets": (MetadataExpired, "targets version", expired("targets")),
    "freeze: team": (MetadataExpired, "packages version", expired(TEAM)),
    "mix-and-match: old snapshot": (
        MetadataMismatch,
        "snapshot version",
        snapshot_before_under_the_new_name,
    ),
    "mix-and-match: old team": (MetadataMismatch, "packages version 2", team_before_under_the_new_name),
    "mix-and-match: other targets": (MetadataMismatch, "packages version 3", targets_of_another_snapshot),
    "mix-and-match: other bytes": (MetadataMismatch, "packages.json", other_bytes_of_the_right_version),
    "mix-and-match: no team": (MetadataMismatch, "snapshot.json (snapshot version", team_that_the_snapshot_lacks),
    "root: the same again": (MetadataMismatch, "2.root.json (root version 1)", root_given_out_as_the_next),
    "root: skips one": (MetadataMismatch, "root version 3", root_that_skips_a_version),
    "root: unsigned": (WrongKeys, "2.root.json", unsigned_root),
    "root: one of two keys": (WrongKeys, "1/2", root_that_one_key_signed),
    "root: a stranger's": (WrongKeys, "0/2", root_that_a_strangers_keys_signed),
    "root: one key twice": (MetadataDamaged, "Multiple signatures", root_that_one_key_signed_twice),
    "root: one key, two names": (WrongKeys, "1/2", root_that_one_key_signed_under_two_names),
    "root: lower threshold": (WrongKeys, "1/2", root_with_a_lower_threshold),
    "unsigned timestamp": (WrongKeys, "timestamp version", unsigned("timestamp")),
    "unsigned snapshot": (WrongKeys, "snapshot version", unsigned("snapshot")),
    "unsigned targets": (WrongKeys, "targets version", unsigned("targets")),
    "unsigned team": (WrongKeys, "packages version", unsigned(TEAM)),
    "team's key for timestamp": (WrongKeys, "timestamp version", signed_by("timestamp", TEAM)),
    "team's key for targets": (WrongKeys, "targets version", signed_by("targets", TEAM)),
    "online key for a team": (WrongKeys, "packages version", signed_by(TEAM, "snapshot")),
    "another team's key": (WrongKeys, "packages version", signed_by(TEAM, "vision")),
    "changed after signing": (WrongKeys, "timestamp version", changed_number),
    "endless root": (MetadataTooLarge, str(ROOT_LIMIT), endless("root", ROOT_LIMIT)),
    "endless timestamp": (MetadataTooLarge, str(TIMESTAMP_LIMIT), endless("timestamp", TIMESTAMP_LIMIT)),
    "endless snapshot": (MetadataTooLarge, str(SNAPSHOT_LIMIT), endless("snapshot", SNAPSHOT_LIMIT)),
    "endless team": (MetadataTooLarge, str(TARGETS_LIMIT), endless(TEAM, TARGETS_LIMIT)),
    "length: a terabyte": (MetadataMismatch, "1000000000000", length_that_lies(10**12)),
    "length: one byte": (MetadataMismatch, "length 1", length_that_lies(1)),
    "version 2**63: snapshot": (MetadataDamaged, "timestamp.json", versions_beyond_names("snapshot")),
    "version 2**63: team": (MetadataDamaged, "the snapshot", versions_beyond_names(TEAM)),
    "another specification": (MetadataDamaged, "spec_version 2.0.0", of_specification("2.0.0")),
    "text that turns around": (MetadataDamaged, "1.? 0", of_specification("1.\u202e\n0")),
    "a key twice": (MetadataDamaged, "timestamp.json", key_twice_in_json),
    "nested objects": (MetadataDamaged, "timestamp.json", raw_timestamp(b'{"a":' * 3000)),
    "nested lists": (
        MetadataDamaged,
        "timestamp.json",
        raw_timestamp(b'{"signatures":[],"signed":' + b"[" * 7000 + b"]" * 7000 + b"}"),
    ),
    "no number": (MetadataDamaged, "timestamp.json", raw_timestamp(b"NaN")),
    "endless number": (MetadataDamaged, "timestamp.json", raw_timestamp(b"9" * 16_000)),
    "not UTF-8": (MetadataDamaged, "utf-8", raw_timestamp(b"\xff\xfe{}")),
    "lone surrogate": (MetadataDamaged, "timestamp.json", raw_timestamp(b'{"signed":{"_type":"\\ud800"}}')),
    "nothing": (MetadataDamaged, "timestamp.json", raw_timestamp(b"")),
}  # fmt: skip


@pytest.mark.parametrize("case", ATTACKS)
def test_an_attack_is_refused_by_name_and_the_honest_server_goes_on(
    node: Node, repo: MadeRepository, case: str
) -> None:
    error, says, change = ATTACKS[case]
    repo.add(NEXT, MORE)
    hostile = repo.copy()
    change(hostile)
    texts = {node.refuses(hostile, error, NEXT) for _ in range(2)}
    assert all(says in text and text.isprintable() for text in texts), texts
    for _ in range(2):  # past the versions that stolen keys signed
        repo.rotate("timestamp")
        repo.rotate("snapshot")
        repo.publish("targets", TEAM)
    assert node.find(repo, NEXT).length == len(MORE) and node.find(repo) == FOUND


NEEDS_NO_KEY = [
    case
    for case in ATTACKS
    if case.startswith(("mix-and-match: o", "root: ", "endless ", "n", "changed", "a key"))
    and case not in ("root: skips one", "root: lower threshold")
]


@pytest.mark.parametrize("case", NEEDS_NO_KEY)
def test_without_a_key_nothing_that_a_node_trusts_changes(
    node: Node, repo: MadeRepository, case: str
) -> None:
    """But for what is newer and signed."""
    repo.add(NEXT, MORE)
    honest = Node(node.folder.parent / "other", repo.given)
    honest.find(repo, NEXT)
    trusted = content(node.folder)
    error, _, change = ATTACKS[case]
    hostile = repo.copy()
    change(hostile)
    node.refuses(hostile, error, NEXT)
    newest = content(honest.folder)
    for name, data in content(node.folder).items():
        assert data in (trusted.get(name), newest.get(name)), name
    repo.publish()
    assert node.find(repo, NEXT).length == len(MORE)


# -- rollback and freeze ---------------------------------------------------------------------------------------------


def test_a_node_that_has_seen_the_newest_takes_none_of_the_states_before(
    node: Node, repo: MadeRepository
) -> None:
    states = [repo.copy()]
    for number in range(4):
        repo.add(f"digits/3.{number}.0.json", b"x")
        states.append(repo.copy())
    newest = states.pop()
    node.find(newest)
    before = content(node.folder)
    for state in states:
        assert "timestamp version" in node.refuses(state, MetadataRollback)
        state.files["timestamp.json"] = newest.files["timestamp.json"]  # what is named is not there
        for name in [name for name in state.files if "root" not in name and name != "timestamp.json"]:
            assert node.find(state) == FOUND, name  # everything is here
    assert content(node.folder) == before


def test_a_root_that_was_left_is_never_gone_back_to(node: Node, repo: MadeRepository) -> None:
    before = repo.copy()
    for _ in range(3):
        repo.rotate("timestamp")
    assert node.find(repo) == FOUND
    node.refuses(before, WrongKeys)  # its timestamp is of a key that was replaced
    before.files |= {"5.root.json": repo.files["3.root.json"]}
    assert "root version 3 is older than root version 4" in node.refuses(before, MetadataRollback)
    assert node.find(repo) == FOUND


def test_a_frozen_server_is_noticed_when_the_timestamp_expires_and_not_before(
    node: Node, repo: MadeRepository
) -> None:
    """Withholding what is newer needs no key: for so long it works, and no longer."""
    node.now = NOW + 6.9 * DAY
    assert node.find(repo) == FOUND
    node.now = NOW + 7.1 * DAY
    assert "timestamp version" in node.refuses(repo, MetadataExpired)
    node.now = NOW + 800 * DAY
    assert "root version 1" in node.refuses(repo, MetadataExpired)


def test_a_clock_behind_does_not_bring_expired_metadata_back(
    tmp_path: Path, node: Node, repo: MadeRepository
) -> None:
    """A board without a clock: it starts in 1970, and what a signed message proved stays known across restarts."""
    (tmp_path / "root.json").write_bytes(repo.given)

    def check(journal: Journal) -> None:
        verifier = ThreadVerifier(
            tmp_path / "root.json", node.folder, lambda: max(journal.now(), PLAUSIBLE_TIME)
        )
        asyncio.run(verifier.check("digits", "1.0.0", FOUND.sha256, Wire(repo)))

    journal = Journal(tmp_path / "state.db", clock=lambda: 0.0)
    check(journal)  # nothing proved the time yet: nothing looks expired
    journal.accept_desired("site/node", DesiredState(1, NOW + 8 * DAY, NOW + 30 * DAY, ()))
    journal.close()
    journal = Journal(tmp_path / "state.db", clock=lambda: 0.0)
    with pytest.raises(MetadataExpired, match="timestamp version"):
        check(journal)
    journal.close()


# -- arbitrary targets -----------------------------------------------------------------------------------------------


def test_a_team_that_signs_for_others_names_is_not_listened_to(node: Node, repo: MadeRepository) -> None:
    for path in (NEXT, PATH, "camera", "camera/1/2.json", "Camera/1.json", "../camera/1.json"):
        repo.add(path, b"by vision", "vision")
    assert node.find(repo) == FOUND
    for path in (NEXT, "camera", "camera/1/2.json", "Camera/1.json", "../camera/1.json"):
        node.refuses(repo, UnknownTarget, path)


def test_a_team_cannot_hand_on_more_than_it_may_sign(node: Node, repo: MadeRepository) -> None:
    """Not even under the name of a team that may."""
    thief = CryptoSigner.generate_ed25519()
    for name in ("friend", TEAM, "vision"):
        it = repo.copy()
        if name == "friend":
            it.signers["friend"] = [thief]
            it.metadata["friend"] = Metadata(Targets(expires=it._expires("friend")))
        role = DelegatedRole(name, [thief.public_key.keyid], 1, False, ["*/*"])
        it.metadata["vision"].signed.delegations = Delegations(
            {thief.public_key.keyid: thief.public_key}, {name: role}
        )
        it.metadata[name].signed.targets[NEXT] = TargetFile.from_data(NEXT, b"evil", ["sha256"])
        it.write(name, [thief] if name != "vision" else None)
        it.publish("vision", *(["friend"] if name == "friend" else []))
        asked = Node(node.folder.parent / f"new-{name}", repo.given)
        with pytest.raises(RepositoryError) as caught:
            asked.find(it, NEXT)
        assert caught.value.name in ("UnknownTarget", "WrongKeys", "MetadataMismatch")


def test_a_target_that_nobody_signed_for_is_unknown_under_every_spelling(
    node: Node, repo: MadeRepository
) -> None:
    for path in (
        "digits/1.0.1.json",
        "digits//1.0.0.json",
        "./digits/1.0.0.json",
        PATH.upper(),
        PATH + " ",
        "",
        "*/*",
    ):
        assert len(node.refuses(repo, UnknownTarget, path)) < 400


def test_another_digest_than_the_one_that_is_desired(
    node: Node, repo: MadeRepository, tmp_path: Path
) -> None:
    (tmp_path / "root.json").write_bytes(repo.given)

    verifier = ThreadVerifier(tmp_path / "root.json", node.folder, lambda: NOW)
    for digest in ("0" * 64, FOUND.sha256.upper(), FOUND.sha256[:63], ""):
        with pytest.raises(UnknownTarget, match=r"packages signed for digits.* with digest b802"):
            asyncio.run(verifier.check("digits", "1.0.0", digest, Wire(repo)))


# -- keys --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", TEAM])
def test_a_key_that_was_replaced_signs_nothing_any_more(node: Node, repo: MadeRepository, role: str) -> None:
    stolen = list(repo.signers[role])
    if role == TEAM:
        top, new = repo.metadata["targets"].signed, CryptoSigner.generate_ed25519()
        top.revoke_key(stolen[0].public_key.keyid, TEAM)
        top.add_key(new.public_key, TEAM)
        repo.signers[TEAM] = [new]
        repo.publish(TEAM, "targets")
    else:
        repo.rotate(role)
    assert node.find(repo) == FOUND
    hostile = repo.copy()
    hostile.signers[role] = stolen
    hostile.publish(*() if role in ("timestamp", "snapshot") else (role,))
    assert f"{role} version" in node.refuses(hostile, WrongKeys)
    for _ in range(2):  # past what the other keys signed
        repo.publish("targets", TEAM)
    assert node.find(repo) == FOUND


def test_what_a_stolen_online_key_pushed_forward_is_forgotten_with_the_key(
    node: Node, repo: MadeRepository
) -> None:
    """A fast-forward attack: versions so high that honest ones look like rollbacks."""
    hostile = repo.copy()
    hostile.metadata["targets"].signed.version = 900_000_000
    hostile.metadata[TEAM].signed.version = 900_000_000
    hostile.metadata["snapshot"].signed.version = 900_000_000
    hostile.metadata["timestamp"].signed.version = 2**63
    hostile.publish("targets", TEAM)
    assert node.find(hostile) == FOUND
    node.refuses(repo, MetadataRollback)
    repo.rotate("timestamp")
    node.refuses(repo, MetadataRollback)  # the snapshot's key is another one here
    repo.rotate("snapshot")
    assert node.find(repo) == FOUND
    hostile.files |= {name: data for name, data in repo.files.items() if "root" in name}
    node.refuses(hostile, WrongKeys)


def test_a_node_that_is_many_roots_behind_comes_up_to_date_with_a_key_lost_each_time(
    tmp_path: Path, repo: MadeRepository
) -> None:
    late = Node(tmp_path / "late", repo.given)
    for number in range(12):
        repo.rotate("root", lost=1)
        if number % 4 == 3:
            repo.rotate("timestamp")
    assert late.find(repo) == FOUND and repo.asked[0] == "2.root.json" and "16.root.json" in repo.asked
    assert late.find(repo) == FOUND and repo.asked == ["17.root.json", "timestamp.json"]
    gap = Node(tmp_path / "gap", repo.given)
    del repo.files["9.root.json"]  # held back: the timestamp's keys are not known
    gap.refuses(repo, WrongKeys)
    repo.rotate("root", lost=2)
    late.refuses(repo, WrongKeys)


def test_two_lost_root_keys_and_two_strange_ones_are_not_enough(node: Node, repo: MadeRepository) -> None:
    root = repo.metadata["root"].signed
    strangers = [CryptoSigner.generate_ed25519() for _ in range(2)]
    for old, new in zip(repo.signers["root"][1:], strangers, strict=True):
        root.revoke_key(old.public_key.keyid, "root")
        root.add_key(new.public_key, "root")
    root.version += 1
    repo.write("root", [repo.signers["root"][0], *strangers])
    assert "1/2" in node.refuses(repo, WrongKeys)


# -- what costs time, memory and disk ---------------------------------------------------------------------------------


def delegating(repo: MadeRepository, names: Mapping[str, list[str]]) -> None:
    """Let many roles, all of one key and without targets, come before the others."""
    signer, top = CryptoSigner.generate_ed25519(), repo.metadata["targets"].signed
    roles = {
        name: DelegatedRole(name, [signer.public_key.keyid], 1, False, paths) for name, paths in names.items()
    }
    keys = top.delegations.keys | {signer.public_key.keyid: signer.public_key}
    top.delegations = Delegations(keys, roles | top.delegations.roles)
    for name in names:
        repo.signers[name] = [signer]
        repo.metadata[name] = Metadata(Targets(expires=repo._expires(name)))
        repo.metadata[name].signed.version = 0


def test_thousands_of_delegations_are_looked_through_only_so_far(node: Node, repo: MadeRepository) -> None:
    names = {f"t{number}": ["*/*"] for number in range(5_000)}
    delegating(repo, names)
    first = list(names)[:900]
    for name in list(names)[900:]:
        del repo.metadata[name]
    repo.publish("targets", *first)
    text = node.refuses(repo, UnknownTarget)
    assert "t0 version 1" in text and len(repo.asked) < 40
    node.refuses(repo, UnknownTarget)
    assert len(repo.asked) == 2


def test_delegations_in_a_circle_end(node: Node, repo: MadeRepository) -> None:
    delegating(repo, {"left": ["*/*"], "right": ["*/*"]})
    top = repo.metadata["targets"].signed.delegations
    for here, there in (("left", "right"), ("right", "left")):
        repo.metadata[here].signed.delegations = Delegations(top.keys, {there: top.roles[there]})
    repo.publish("targets", "left", "right")
    assert node.find(repo) == FOUND
    node.refuses(repo, UnknownTarget, NEXT)


@pytest.mark.parametrize(
    "name", ["../up", "Vision", "vísion", "a" * 64, "a\nb", "\u202eteam", "root.json", "-", "x" * 5000]
)
def test_a_team_whose_name_is_no_files_name(node: Node, repo: MadeRepository, name: str) -> None:
    repo.delegate(name, ["*/*"])
    text = node.refuses(repo, MetadataDamaged)
    assert "a delegation" in text and text.isprintable()
    assert all(path.parent.name in ("repo", "root_history") for path in node.folder.rglob("*.json"))


@pytest.mark.parametrize("name", ["root", "timestamp", "snapshot", "targets", ""])
def test_a_team_that_is_called_like_another_role(node: Node, repo: MadeRepository, name: str) -> None:
    trusted = content(node.folder)
    repo.metadata["targets"].signed.delegations.roles["vision"].name = name
    repo.publish("targets")
    node.refuses(repo, MetadataDamaged)
    after = content(node.folder)
    assert after["targets.json"] == trusted["targets.json"] and after.keys() == trusted.keys()


def test_patterns_that_take_for_ever_do_not(node: Node, repo: MadeRepository) -> None:
    """A team's patterns are the targets' to write; a quadratic one would hold a node up at each installation."""
    paths = ["*d" * 200 + "x/*", "[z-a]/*", "[!", "[" * 500, "?" * 300 + "/*"]
    repo.metadata["targets"].signed.delegations.roles["vision"].paths = paths
    repo.publish("targets")
    repo.add(f"{'d' * 63}/1.json", b"x")
    assert node.find(repo, f"{'d' * 63}/1.json").role == TEAM


def test_the_largest_files_cost_tens_of_megabytes(tmp_path: Path, repo: MadeRepository) -> None:
    """Of the process that reads them, which is not the daemon."""
    fields = repo.metadata[TEAM].signed.unrecognized_fields
    fields["x"] = [[[], {}, "\u0000"] for _ in range(50_000)]
    for number in range(300):
        path = f"m{number}/1.json"
        repo.metadata[TEAM].signed.targets[path] = TargetFile.from_data(path, b"x", ["sha256"])
    repo.renew(TEAM)
    document = json.loads(repo.files[named(repo, TEAM)])
    repo.files[named(repo, TEAM)] = json.dumps(document, separators=(",", ":")).encode()
    repo.publish()
    assert TARGETS_LIMIT * 3 // 4 < len(repo.files[named(repo, TEAM)]) < TARGETS_LIMIT
    child = os.fork()
    if not child:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        found = Node(tmp_path / "big", repo.given).find(repo)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        os._exit(0 if found == FOUND and grown < 80_000 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_what_stolen_keys_delegate_to_does_not_fill_the_disk(
    node: Node, repo: MadeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_KEPT_BYTES", 100_000)
    for day in range(6):
        name = f"day{day}"
        delegating(repo, {name: ["*/*"]})
        repo.metadata[name].signed.unrecognized_fields["x"] = "x" * 60_000
        repo.metadata["targets"].signed.delegations.roles.pop(f"day{day - 1}", None)
        repo.publish("targets", name)
        assert node.find(repo) == FOUND
    assert sum(map(len, content(node.folder).values())) < 200_000
    assert node.find(repo) == FOUND


# -- what a power cut and a disk do to what is trusted -----------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.usefixtures("quick")
def test_killed_before_any_change_of_the_disk_it_trusts_what_was_signed_and_goes_on(
    tmp_path: Path, node: Node, repo: MadeRepository
) -> None:
    old = repo.copy()
    for role in ("root", "timestamp", "snapshot", "targets"):
        repo.rotate(role, lost=1 if role == "root" else 0)
    repo.add(NEXT, MORE)
    signed = set(repo.files.values()) | set(old.files.values())
    deaths = 0
    while True:
        again = _copy(node, tmp_path / f"n{deaths}")
        if not killed(partial(again.find, repo, NEXT), deaths):
            break
        assert set(content(again.folder).values()) <= signed, "torn, or what nobody signed"
        newer = "3.root.json" in content(again.folder)  # whose timestamp's key is another
        with pytest.raises(WrongKeys) if newer else contextlib.nullcontext():
            again.find(old)  # the attack that a kill might make room for
        assert again.find(repo, NEXT).length == len(MORE)
        assert not list(again.folder.rglob("*" + disk.LEFTOVER))
        deaths += 1
    assert deaths > 12


def _copy(node: Node, folder: Path) -> Node:
    shutil.copytree(node.folder, folder / "repo", symlinks=True)
    return Node(folder, node.root)


@pytest.mark.parametrize("first", range(7))
def test_a_disk_that_refuses_at_any_file_costs_nothing(
    node: Node, repo: MadeRepository, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    repo.rotate("timestamp")
    repo.rotate("snapshot")
    repo.add(NEXT, MORE)
    left, write = first, disk.write

    def full(path: Path, data: bytes, sync_folder: bool = True) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise disk.store_error(path, OSError(28, "No space left on device"))
        write(path, data, sync_folder)

    monkeypatch.setattr(disk, "write", full)
    if first < 5:
        for _ in range(2):
            with pytest.raises(StoreError, match="No space"):
                node.find(repo, NEXT)
    monkeypatch.setattr(disk, "write", write)
    assert node.find(repo, NEXT).length == len(MORE)


def test_files_that_somebody_swapped_on_the_disk_trust_nobody_else(node: Node, repo: MadeRepository) -> None:
    """What is kept is verified again each time: a folder from another node, or operator, is of no use."""
    other = MadeRepository()
    other.add(NEXT, b"evil")
    stranger = Node(node.folder.parent / "stranger", other.given)
    stranger.find(other, NEXT)
    shutil.rmtree(node.folder)
    shutil.copytree(stranger.folder, node.folder, symlinks=True)
    node.refuses(repo, UnknownTarget, NEXT)
    assert node.find(repo) == FOUND
    node.refuses(other, WrongKeys, NEXT)


def test_a_team_file_that_is_not_there_names_the_file(node: Node, repo: MadeRepository) -> None:
    repo.add(NEXT, MORE)
    for role in ("snapshot", TEAM):
        hostile = repo.copy()
        del hostile.files[named(repo, role)]
        again = Node(node.folder.parent / role, repo.given)
        assert named(repo, role) in again.refuses(hostile, MetadataMissing, NEXT)


def test_json_that_is_not_canonical_is_verified_as_what_it_means(node: Node, repo: MadeRepository) -> None:
    """Spaces and order are not signed, values are: two writings are one timestamp, and no third one can pass for it."""
    repo.add(NEXT, MORE)
    document = json.loads(repo.files["timestamp.json"])
    shuffled = {key: document["signed"][key] for key in reversed(document["signed"])}
    assert encode_canonical(shuffled) == encode_canonical(document["signed"])
    repo.files["timestamp.json"] = json.dumps({**document, "signed": shuffled}, indent=7).encode()
    assert node.find(repo, NEXT).length == len(MORE)
    document["signed"]["snapshot"] = {"version": 1}
    repo.files["timestamp.json"] = json.dumps(document).encode()
    node.refuses(repo, WrongKeys, NEXT)

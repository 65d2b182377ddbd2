from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import StoreError
from agent.fleet.home import Home
from agent.fleet.repo import Repo
from agent.fleet.repo.store import LIMITS, RepoFiles
from tests.unit.fleet.repo.desk import DAY, START, Node, Operator
from tests.unit.package.killing import killed


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here pulls the plug."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


OPERATIONS: dict[str, Callable[[Operator], object]] = {
    "add": lambda desk: desk.add(version="2"),
    "renew": lambda desk: desk.repo.renew(),
    "delegate": lambda desk: desk.repo.delegate("vision", ["net/*"]),
    "rotate root": lambda desk: desk.repo.rotate("root", lost="root-2"),
    "rotate online": lambda desk: desk.repo.rotate("online"),
    "rotate targets": lambda desk: desk.repo.rotate("targets"),
    "rotate packages": lambda desk: desk.repo.rotate("packages"),
    "sign": lambda desk: desk.repo.sign([desk.away]),
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_killed_anywhere_nodes_go_on_and_the_next_command_heals(tmp_path: Path, operation: str) -> None:
    desk = Operator(tmp_path).begin()
    desk.add()
    if operation == "sign":
        desk.lock_away("root-1", "root-2")
        desk.repo.rotate("targets")
    elif operation == "renew":
        desk.now += 5 * DAY
    shutil.copytree(desk.home.path, tmp_path / "before")
    veteran, act = Node(desk, tmp_path / "veteran"), OPERATIONS[operation]
    assert veteran.finds()
    deaths = 0
    while killed(lambda: act(desk), deaths):
        deaths += 1
        for name in ("veteran", "new"):
            seen = tmp_path / f"{name}-{deaths}"
            if name == "veteran":
                shutil.copytree(tmp_path / "veteran", seen, symlinks=True)
                node = Node.resume(desk, seen, veteran)
            else:
                node = Node(desk, seen)
            assert node.finds(), f"{name} after {deaths}"
            shutil.rmtree(seen)
        seen = tmp_path / "after"
        shutil.copytree(tmp_path / "veteran", seen, symlinks=True)
        desk.add(version="3")
        assert Node.resume(desk, seen, veteran).finds(version="3") and not list(desk.home.repo.rglob("*.tmp"))
        assert {path.name for path in desk.home.repo.iterdir()} == {
            "metadata",
            "staged",
            ".lock",
            "root.json",
        }
        newest = desk.files.versions("root")[-1]
        assert (desk.home.repo / "root.json").read_bytes() == desk.files.read(f"{newest}.root.json")
        shutil.rmtree(seen)
        shutil.rmtree(desk.home.path)
        shutil.copytree(tmp_path / "before", desk.home.path)
    assert deaths > 10
    assert veteran.finds()


@pytest.mark.usefixtures("quick")
def test_init_killed_anywhere_ends_when_it_is_run_again(tmp_path: Path) -> None:
    deaths = 0
    while killed(Operator(tmp_path).begin, deaths):
        deaths += 1
        desk = Operator(tmp_path)
        if not desk.files.versions("root"):
            desk.begin()
        desk.add()
        assert Node(desk, tmp_path / "node").finds()
        assert len(list(desk.home.offline.glob("*.pem"))) == 4
        for path in (desk.home.path, tmp_path / "node"):
            shutil.rmtree(path)
    assert deaths > 30


def test_a_reader_sees_all_of_a_publication_while_it_is_moved(tmp_path: Path) -> None:
    desk = Operator(tmp_path).begin()
    desk.add()
    (desk.home.repo / "published").mkdir()
    for name in ("2.snapshot.json", "timestamp.json"):
        (desk.files.metadata / name).rename(desk.home.repo / "published" / name)
    assert Node(desk, tmp_path / "node").finds()
    desk.add(version="2")
    assert not (desk.home.repo / "published").exists() and Node(desk, tmp_path / "new").finds()


def test_writers_take_turns(tmp_path: Path) -> None:
    desk = Operator(tmp_path).begin()
    repos = [Repo(desk.home, lambda: START) for _ in range(4)]
    threads = [
        threading.Thread(target=repo.add, args=("net", str(number), b"net"))
        for number, repo in enumerate(repos)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert desk.repo.status().targets == 4 and desk.files.versions("packages")[-1] == 5


@pytest.mark.parametrize(
    "name",
    [
        "",
        "root.json",
        "..",
        "../1.root.json",
        "metadata/1.root.json",
        "0.root.json",
        "1.root",
        ".lock",
        "a" * 99,
    ],
)
def test_only_metadata_is_read(tmp_path: Path, name: str) -> None:
    desk = Operator(tmp_path).begin()
    assert desk.files.read(name) is None
    assert RepoFiles(tmp_path / "nowhere").read("timestamp.json") is None


def test_a_file_that_is_too_large_or_none_is_named(tmp_path: Path) -> None:
    desk = Operator(tmp_path).begin()
    path = desk.files.metadata / "timestamp.json"
    path.write_bytes(bytes(LIMITS["timestamp"] + 1))
    with pytest.raises(StoreError, match=r"timestamp\.json: larger than 16384 bytes"):
        desk.files.read("timestamp.json")
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=r"timestamp\.json"):
        desk.files.read("timestamp.json")


def test_a_full_disk_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Operator(tmp_path).begin()
    desk.add()
    before = desk.names()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left"):
            desk.add(version="2")
    assert desk.names() == before
    desk.add(version="2")
    assert Node(desk, tmp_path / "node").finds(version="2")


def test_a_home_of_somebody_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"):
        Repo(Home(tmp_path / "file" / "fleet")).init()

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillRunning
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BlockError, StoreError
from agent.package import arriving, disk
from agent.package.store import Store
from agent.package.versions import Versions
from tests.unit.package.samples import Sample, sample

CAP = 1 << 20


def install(store: Store, package: Sample) -> int:
    """Deliver and commit a package as a deployment does; the number of blocks that had to be fetched."""
    store.put_manifest(package.package)
    missing = store.missing(package.manifest.files)
    for block in missing:
        store.put_block(block, package.blocks[block.sha256])
    for file in package.manifest.files.values():
        store.assemble(file)
    store.commit(package.manifest.name, package.digest)
    return len(missing)


def is_whole(store: Store, package: Sample) -> bool:
    files = package.manifest.files.items()
    return all(store.path(file).read_bytes() == package.contents[name] for name, file in files)


def test_a_package_is_assembled_and_is_on_the_disk_once(tmp_path: Path) -> None:
    store, package = Store(tmp_path / "store", CAP), sample()
    assert install(store, package) == len(package.blocks)
    assert is_whole(store, package)
    assert store.manifest(package.digest) == package.encoded
    assert store.missing(package.manifest.files) == []
    assert not list((tmp_path / "store" / "arriving").iterdir())
    assert store.used_bytes() < sum(map(len, package.contents.values())) + len(package.encoded) + 300


def test_missing_names_each_block_once_in_order(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample(weights=b"w" * 6144)
    files = package.manifest.files
    assert len(files["net.onnx"].blocks) == 4  # three of them equal
    missing = store.missing({"net.onnx": files["net.onnx"], "again.onnx": files["net.onnx"]})
    assert [block.sha256 for block in missing] == list(
        dict.fromkeys(b.sha256 for b in files["net.onnx"].blocks)
    )
    store.put_block(missing[0], package.blocks[missing[0].sha256])
    assert store.missing({"net.onnx": files["net.onnx"]}) == missing[1:]
    assert store.missing({"net.onnx": files["net.onnx"]}) == missing[1:]


def test_a_new_version_fetches_only_what_changed(tmp_path: Path) -> None:
    store = Store(tmp_path, CAP)
    install(store, sample())
    new = sample("1.1.0", weights=b"w" * 4096 + b"v" * 904)
    assert install(store, new) == 1
    assert is_whole(store, new)
    assert install(Store(tmp_path, CAP), sample("1.2.0", weights=b"w" * 4096 + b"u" * 904)) == 1


def test_wrong_blocks_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    block = package.manifest.files["net.onnx"].blocks[0]
    for data in (b"", package.blocks[block.sha256][:-1], b"x" * block.size):
        with pytest.raises(BlockError):
            store.put_block(block, data)
    store.put_block(block, package.blocks[block.sha256])  # which nothing has asked for
    assert store.used_bytes() == 0
    assert block in store.missing(package.manifest.files)


def test_damaged_blocks_are_dropped_so_that_a_retry_heals(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    file = package.manifest.files["net.onnx"]
    for block in store.missing({"net.onnx": file}):
        store.put_block(block, package.blocks[block.sha256])
    bad = file.blocks[0].sha256
    with (tmp_path / "arriving" / file.sha256).open("r+b") as part:
        part.write(b"y" * 10)
    with pytest.raises(BlockError, match="1 blocks"):
        store.assemble(file)
    with pytest.raises(StoreError):
        store.path(file)
    missing = store.missing({"net.onnx": file})
    assert [block.sha256 for block in missing] == [bad]
    store.put_block(missing[0], package.blocks[bad])
    assert store.assemble(file).read_bytes() == package.contents["net.onnx"]


def test_a_damaged_file_of_another_version_is_not_built_on(tmp_path: Path) -> None:
    store = Store(tmp_path, CAP)
    install(store, sample())
    old = store.path(sample().manifest.files["net.onnx"])
    data = bytearray(old.read_bytes())
    data[0] ^= 1
    old.write_bytes(data)
    new = sample("1.1.0", weights=b"v" * 5000)
    assert install(store, new) == len({block.sha256 for block in new.manifest.files["net.onnx"].blocks})
    assert is_whole(store, new)


def test_assembling_without_a_block_names_it(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    file = package.manifest.files["net.onnx"]
    with pytest.raises(BlockError, match="none of its blocks"):
        store.assemble(file)
    assert store.used_bytes() == 0
    store.missing({"net.onnx": file})
    with pytest.raises(BlockError, match=file.blocks[0].sha256):
        store.assemble(file)
    with pytest.raises(StoreError):
        store.path(file)


def test_a_manifest_with_a_wrong_file_digest_is_refused(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    file = package.manifest.files["net.onnx"].model_copy(update={"sha256": "0" * 64})
    store.missing({"net.onnx": file})
    for block in file.blocks:
        store.put_block(block, package.blocks[block.sha256])
    with pytest.raises(BlockError, match="although every block does"):
        store.assemble(file)


def test_a_truncated_file_is_fetched_again(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    install(store, package)
    file = package.manifest.files["net.onnx"]
    store.path(file).write_bytes(b"short")
    with pytest.raises(StoreError, match="cut short"):
        store.path(file)
    assert len(Store(tmp_path, CAP).missing({"net.onnx": file})) == len({b.sha256 for b in file.blocks})


def test_commit_revert_and_remove(tmp_path: Path) -> None:
    store, first, second = Store(tmp_path, CAP), "1" * 64, "2" * 64
    assert store.versions("net") == Versions(None, None)
    with pytest.raises(StoreError, match="no previous version"):
        store.revert("net")
    assert store.commit("net", first) == Versions(first, None)
    assert store.commit("net", second) == Versions(second, first)
    assert store.commit("net", second) == Versions(second, first)
    assert Store(tmp_path, CAP).models() == {"net": Versions(second, first)}
    assert store.revert("net") == Versions(first, None)
    store.remove("net")
    store.remove("net")
    assert store.models() == {}
    with pytest.raises(ValueError, match="model"):
        store.versions("../net")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"current": 5, "previous": null}', b'{"current": "x"}']
)
def test_a_damaged_version_file_is_named_hides_nobody_else_and_heals(tmp_path: Path, content: bytes) -> None:
    store, package = Store(tmp_path, CAP), sample()
    install(store, package)
    store.commit("other", "2" * 64)
    (tmp_path / "models" / "net.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"models/net\.json"):
        store.versions("net")
    assert set(store.models()) == {"other"}
    assert store.collect([]) == 0  # what net needs is not known
    assert is_whole(store, package)
    assert store.commit("net", package.digest) == Versions(package.digest, None)


def test_collect_keeps_current_previous_and_what_is_asked(tmp_path: Path) -> None:
    store = Store(tmp_path, CAP)
    versions = [sample(f"{n}.0.0", weights=bytes([n]) * 5000) for n in range(4)]
    for package in versions[:3]:
        install(store, package)
    arriving = versions[3]
    store.put_manifest(arriving.package)
    for block in store.missing(arriving.manifest.files)[:2]:
        store.put_block(block, arriving.blocks[block.sha256])
    before = store.used_bytes()
    freed = store.collect([arriving.digest])
    assert store.used_bytes() == before - freed
    assert freed > 5000
    with pytest.raises(StoreError):
        store.manifest(versions[0].digest)
    assert is_whole(store, versions[1])
    assert is_whole(store, versions[2])
    left = store.missing(arriving.manifest.files)
    assert store.collect([]) > 0
    assert len(store.missing(arriving.manifest.files)) > len(left)
    store.remove("net")
    store.collect([])
    assert store.used_bytes() == 0


def test_an_unreadable_manifest_deletes_nobodys_files(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample()
    install(store, package)
    (tmp_path / "manifests" / f"{package.digest}.json").write_bytes(b"{}")
    assert store.collect([]) == 0
    assert is_whole(store, package)
    with pytest.raises(StoreError, match="damaged"):
        store.manifest(package.digest)
    store.put_manifest(package.package)
    assert store.manifest(package.digest) == package.encoded


def test_the_cap_is_named_with_its_numbers(tmp_path: Path) -> None:
    store = Store(tmp_path, 20_000)
    install(store, sample())
    store.reserve(1000)
    with pytest.raises(StoreError, match=r"0\.0 MB are used.*\[store\] max_mb"):
        store.reserve(20_000)
    big = sample("2.0.0", weights=os.urandom(16_000))
    with pytest.raises(StoreError, match="max_mb"):
        install(store, big)
    assert store.versions("net") == Versions(sample().digest, None)


def test_more_than_the_disk_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="free on this disk"):
        Store(tmp_path, 1 << 62).reserve(1 << 60)


def full(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_disk_that_fills_meanwhile_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, package = Store(tmp_path, CAP), sample()
    file = package.manifest.files["net.onnx"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreError, match=rf"{file.sha256}: No space left.*free space.*max_mb"):
            store.missing(package.manifest.files)
    assert store.used_bytes() == 0
    assert install(store, package) == len(package.blocks)


def test_a_block_that_cannot_be_written_is_taken_when_it_comes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, package = Store(tmp_path, CAP), sample()
    block = store.missing(package.manifest.files)[0]
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="No space left"):
            store.put_block(block, package.blocks[block.sha256])
    assert block in store.missing(package.manifest.files)
    store.put_block(block, package.blocks[block.sha256])
    assert block not in store.missing(package.manifest.files)


def test_the_space_of_a_download_is_taken_before_it_begins(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample(weights=os.urandom(100_000))
    store.missing(package.manifest.files)
    part = tmp_path / "arriving" / package.manifest.files["net.onnx"].sha256
    assert part.stat().st_blocks * 512 >= 100_000
    assert Store(tmp_path, 110_000).missing(package.manifest.files)  # which has its place already


def test_what_had_arrived_is_found_again_by_its_content(tmp_path: Path) -> None:
    store, package = Store(tmp_path, CAP), sample(weights=os.urandom(100_000))
    files = package.manifest.files
    missing = store.missing(files)
    for block in missing[::2]:
        store.put_block(block, package.blocks[block.sha256])
    assert Store(tmp_path, CAP).missing(files) == missing[1::2]
    torn = next(place for place, block in enumerate(files["net.onnx"].blocks) if block == missing[2])
    with (tmp_path / "arriving" / files["net.onnx"].sha256).open("r+b") as part:
        part.seek(sum(block.size for block in files["net.onnx"].blocks[:torn]))
        part.write(b"torn")
    after = Store(tmp_path, CAP)
    assert set(after.missing(files)) == {*missing[1::2], missing[2]}
    assert install(after, package) == len(missing[1::2]) + 1
    assert is_whole(after, package)


def test_the_digest_of_a_file_is_that_of_its_bytes_in_whatever_order_they_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "SYNC_BYTES", 4096)  # and reads back what is there without a gap
    store, package = Store(tmp_path, CAP), sample(weights=os.urandom(50_000))
    file = package.manifest.files["net.onnx"]
    missing = store.missing({"net.onnx": file})
    for block in [*missing[1:12], missing[0], *reversed(missing[12:])]:
        store.put_block(block, package.blocks[block.sha256])
    with (tmp_path / "arriving" / file.sha256).open("r+b") as part:
        part.seek(-10, os.SEEK_END)
        part.write(b"y" * 10)  # not read back yet: blocks before it came last
    with pytest.raises(BlockError, match="1 blocks"):
        store.assemble(file)
    last = file.blocks[-1]
    assert store.missing({"net.onnx": file}) == [last]
    store.put_block(last, package.blocks[last.sha256])
    assert store.assemble(file).read_bytes() == package.contents["net.onnx"]


def test_one_block_goes_wherever_it_is_wanted(tmp_path: Path) -> None:
    store = Store(tmp_path, CAP)
    one, other = sample(), sample("2.0.0", weights=b"w" * 9000, name="other")
    first, second = store.missing(one.manifest.files), store.missing(other.manifest.files)
    for block in first:
        store.put_block(block, one.blocks[block.sha256])
    assert store.missing(other.manifest.files) == [block for block in second if block not in first]
    assert 0 < len(store.missing(other.manifest.files)) < len(second)
    assert store.assemble(one.manifest.files["net.onnx"]).read_bytes() == one.contents["net.onnx"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(StoreError, match="store"):
        Store(tmp_path / "store", CAP)


def test_a_block_that_is_there_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, package = Store(tmp_path, CAP), sample()
    block = store.missing(package.manifest.files)[0]
    store.put_block(block, package.blocks[block.sha256])
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("written twice"))
    store.put_block(block, package.blocks[block.sha256])


def in_a_process_killed_at(step: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a process that dies without a word at its n-th write, sync, rename or unlink."""
    child = os.fork()
    if child == 0:
        left = step

        def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    os._exit(9)
                return real(*args, **kwargs)

            return call

        try:
            os.fsync, os.pwrite = deadly(os.fsync), deadly(os.pwrite)
            os.posix_fallocate = deadly(os.posix_fallocate)
            Path.replace = deadly(Path.replace)  # type: ignore[method-assign]
            Path.unlink = deadly(Path.unlink)  # type: ignore[method-assign]
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_a_kill_at_any_point_leaves_the_old_or_the_new_version_whole(tmp_path: Path) -> None:
    old, new = sample(), sample("2.0.0", weights=b"v" * 5000)
    steps, killed = 0, True
    while killed:
        root = tmp_path / str(steps)
        install(Store(root, CAP), old)
        killed = in_a_process_killed_at(steps, lambda root=root: install(Store(root, CAP), new))  # type: ignore[misc]
        store = Store(root, CAP)
        assert not list(root.rglob("*.tmp"))
        versions = store.versions("net")
        assert versions in (Versions(old.digest, None), Versions(new.digest, old.digest))
        assert is_whole(store, old)
        if versions.current == new.digest:
            assert is_whole(store, new)
        install(store, new)
        assert store.versions("net") == Versions(new.digest, old.digest)
        assert is_whole(store, new)
        steps += 1
    assert steps >= 15


def test_space_that_was_not_there_is_reserved_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a full disk left of the first try is no place that was reserved."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store, package, other = (
        Store(tmp_path, 20_000),
        sample(weights=bytes(9_000)),
        sample("2.0.0", os.urandom(9_000)),
    )
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(StoreError, match="No space left"):
            store.missing(package.manifest.files)
    install(store, other)
    with pytest.raises(StoreError, match="max_mb"):
        store.missing(package.manifest.files)
    assert store.used_bytes() < 20_000


def test_two_that_make_room_at_once_do_not_take_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = [sample(name=name, weights=os.urandom(11_000)) for name in ("cam", "net")]
    store, both = Store(tmp_path, 20_000), threading.Barrier(2)
    real = store.reserve

    def slow(nbytes: int) -> None:
        real(nbytes)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # for the other one to reserve as well, if it can

    monkeypatch.setattr(store, "reserve", slow)

    def refused(package: Sample) -> bool:
        try:
            store.missing(package.manifest.files)
        except StoreError:
            return True
        return False

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(refused, packages)) == [False, True]
    assert store.used_bytes() < 20_000


def test_what_is_on_the_disk_needs_no_space(tmp_path: Path) -> None:
    """A way back must not depend on space that it does not take: the cap was lowered, the disk is full."""
    package = sample()
    install(Store(tmp_path, CAP), package)
    store = Store(tmp_path, 1)
    assert store.missing(package.manifest.files) == []
    with pytest.raises(StoreError, match="max_mb"):
        store.missing(sample("2.0.0", b"v" * 5000).manifest.files)


def test_leftovers_on_a_disk_that_became_read_only_keep_nobody_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = sample()
    install(Store(tmp_path, CAP), package)
    (tmp_path / "models" / "net.json.abc.tmp").write_bytes(b"half")

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", read_only)
    assert is_whole(Store(tmp_path, CAP), package)


def test_a_file_that_is_dropped_while_a_block_is_written_to_it_harms_no_other(tmp_path: Path) -> None:
    """A deployment that a newer one supersedes ends while the other's begins: both have the same blocks."""
    old, new = sample(), sample("2.0.0", weights=b"w" * 5000 + b"tail")
    dropping = False

    def announce(_: int) -> None:
        nonlocal dropping
        if dropping:
            dropping = False
            store.collect({new.digest})

    store = Store(tmp_path, CAP, announce)
    store.put_manifest(old.package)
    for block in store.missing(old.manifest.files):
        dropping = True
        with contextlib.suppress(StoreError):
            store.put_block(block, old.blocks[block.sha256])
    assert install(store, new) == len(new.blocks)
    assert is_whole(store, new)


def test_a_block_reaches_who_wants_it_although_another_does_not_any_more(tmp_path: Path) -> None:
    packages = [sample(name=name, weights=b"w" * 5000 + name.encode()) for name in ("cam", "kws", "net")]
    dropping = False

    def announce(_: int) -> None:
        nonlocal dropping
        if dropping:
            dropping = False
            store.collect({packages[2].digest})

    store = Store(tmp_path, CAP, announce)
    for package in packages:
        store.put_manifest(package.package)
        store.missing(package.manifest.files)
    for block in store.missing(packages[2].manifest.files):
        dropping = True
        store.put_block(block, packages[2].blocks[block.sha256])
    for file in packages[2].manifest.files.values():
        store.assemble(file)
    assert is_whole(store, packages[2])


def test_a_block_that_another_download_is_writing_is_there_when_it_was_put(tmp_path: Path) -> None:
    """Else the file would be found to lack it, again and again, while the disk is slow."""
    cam, net = sample(name="cam"), sample(name="net")
    writing, go_on = threading.Event(), threading.Event()

    def announce(_: int) -> None:
        if armed:
            writing.set()
            go_on.wait(10)

    armed = False
    store = Store(tmp_path, CAP, announce)
    blocks = store.missing(cam.manifest.files)
    assert store.missing(net.manifest.files) == blocks
    armed = True
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(store.put_block, blocks[0], cam.blocks[blocks[0].sha256])
        assert writing.wait(10)
        second = pool.submit(store.put_block, blocks[0], net.blocks[blocks[0].sha256])
        with pytest.raises(StillRunning):
            second.result(0.2)
        armed = False
        go_on.set()
        second.result(10)
        assert blocks[0] not in store.missing(net.manifest.files)
        first.result(10)


def test_a_commit_that_failed_is_not_found_committed_by_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename is done, making it durable fails: the old version goes on, and must be the one of the next start."""
    store, new = Store(tmp_path, CAP), sample("2.0.0", weights=b"v" * 5000)
    install(store, sample())
    before, real, failures = store.versions("net"), disk.sync, [1]

    def refuse(folder: Path) -> None:
        if failures and folder.name == "models":
            failures.pop()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(folder)

    monkeypatch.setattr(disk, "sync", refuse)
    with pytest.raises(StoreError, match="Input/output error"):
        install(store, new)
    assert Store(tmp_path, CAP).versions("net") == before
    install(store, new)
    assert store.versions("net") == Versions(new.digest, before.current)

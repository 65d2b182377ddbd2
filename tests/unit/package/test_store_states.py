"""The store in any order of events: overlapping deliveries, commits, removals, full and failing disks, kills.

Whatever happens, what is current or previous is whole, and what is under way loses nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.errors import BlockError, StoreError
from agent.package.store import Store
from agent.package.versions import Versions
from tests.unit.package.samples import Sample, sample

SMALL = 1 << 20
MEMORY = Path("/dev/shm")  # thousands of syncs
MADE = [
    sample(f"1.{minor}.0", b"shared" * 700 + bytes([seed, minor]) * 900, name)
    for seed, name in enumerate(("cam", "net"))
    for minor in range(3)
] + [sample("2.0.0", os.urandom(30_000), "net")]
FAULTS: tuple[tuple[Any, str], ...] = (
    (os, "fsync"),
    (os, "fdatasync"),
    (os, "posix_fallocate"),
    (os, "ftruncate"),
    (os, "pwrite"),
    (Path, "replace"),
    (Path, "unlink"),
    (tempfile, "mkstemp"),
)


@contextmanager
def failing(steps: int, fail: Callable[[], None]) -> Iterator[None]:
    """Each disk operation from the n-th on does what ``fail`` does, which never returns."""
    left = steps

    def wrapped(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                fail()
            return real(*args, **kwargs)

        return call

    with ExitStack() as patched:
        for owner, name in FAULTS:
            patched.enter_context(mock.patch.object(owner, name, wrapped(getattr(owner, name))))
        yield


@dataclass(frozen=True, repr=False)
class Known(Sample):
    """With a name instead of its content, in the steps that fail."""

    def __repr__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"


PACKAGES = [Known(each.manifest, each.encoded, each.blocks, each.contents) for each in MADE]


class Machine(RuleBasedStateMachine):
    """``open``: deployments under way. ``versions``: what must be current and previous."""

    cap = SMALL

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="store-", dir=MEMORY if MEMORY.is_dir() else None))
        self.is_full = False
        self.open: dict[str, Sample] = {}
        self.versions: dict[str, Versions] = {}
        self.by_digest = {package.digest: package for package in PACKAGES}
        self.store = self.opened()

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def opened(self) -> Store:
        return Store(self.root, self.cap, self.before_write)

    def before_write(self, _: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    # -- what a deployment does ----------------------------------------------------------------------------------

    def wanted(self, package: Sample) -> list[Any]:
        """As DOWNLOADING does: what is too much makes room first."""
        self.store.put_manifest(package.package)
        try:
            return self.store.missing(package.manifest.files)
        except StoreError:
            self.store.collect(list(self.open))
            return self.store.missing(package.manifest.files)

    def deliver(self, package: Sample, most: int | None = None) -> None:
        for block in self.wanted(package)[:most]:
            self.store.put_block(block, package.blocks[block.sha256])

    def install(self, package: Sample) -> None:
        self.deliver(package)
        for file in package.manifest.files.values():
            self.store.assemble(file)
        self.store.commit(package.manifest.name, package.digest)

    def committed(self, package: Sample) -> Versions:
        """What a commit makes of the model's versions."""
        old = self.versions.get(package.manifest.name, Versions())
        return old if old.current == package.digest else Versions(package.digest, old.current)

    @initialize()
    def begin_somewhere(self) -> None:
        self.install(PACKAGES[0])
        self.versions[PACKAGES[0].manifest.name] = self.committed(PACKAGES[0])

    @rule(package=st.sampled_from(PACKAGES), most=st.integers(0, 4))
    def some_arrives(self, package: Sample, most: int) -> None:
        self.open[package.digest] = package
        try:
            self.deliver(package, most)
        except StoreError:
            assert self.is_full or self.cap < SMALL

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_deployment_ends_well(self, data: st.DataObject) -> None:
        package = data.draw(st.sampled_from(list(self.open.values())))
        try:
            self.install(package)
        except StoreError:
            assert self.is_full or self.cap < SMALL
        else:
            self.versions[package.manifest.name] = self.committed(package)
        del self.open[package.digest]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def a_deployment_is_given_up(self, data: st.DataObject) -> None:
        del self.open[data.draw(st.sampled_from(list(self.open)))]

    @precondition(lambda self: self.open)
    @rule(data=st.data(), damage=st.sampled_from((b"", b"x", b"x" * 2048)))
    def a_wrong_block_is_refused(self, data: st.DataObject, damage: bytes) -> None:
        package = data.draw(st.sampled_from(list(self.open.values())))
        block = package.manifest.files["net.onnx"].blocks[0]
        with pytest.raises(BlockError):
            self.store.put_block(block, damage)

    # -- what happens to models ----------------------------------------------------------------------------------

    @precondition(lambda self: not self.is_full)
    @rule(model=st.sampled_from(("cam", "net")))
    def revert(self, model: str) -> None:
        old = self.versions.get(model, Versions())
        if old.previous is None:
            with pytest.raises(StoreError, match="no previous version"):
                self.store.revert(model)
            return
        self.store.revert(model)
        self.versions[model] = Versions(old.previous, None)

    @rule(model=st.sampled_from(("cam", "net")))
    def remove(self, model: str) -> None:
        self.store.remove(model)
        self.versions.pop(model, None)

    @rule()
    def collect(self) -> None:
        before = self.still_missing()
        used = self.store.used_bytes()
        freed = self.store.collect(list(self.open))
        assert self.store.used_bytes() == used - freed
        assert self.still_missing() == before

    def still_missing(self) -> dict[str, set[str]]:
        """Of each deployment under way; empty where that cannot be known now."""
        if self.is_full or self.cap < SMALL:
            return {}
        return {
            digest: {block.sha256 for block in self.wanted(package)} for digest, package in self.open.items()
        }

    # -- what happens to the node --------------------------------------------------------------------------------

    @rule(full=st.booleans())
    def the_disk_fills_or_has_space_again(self, full: bool) -> None:
        self.is_full = full

    @rule()
    def restart(self) -> None:
        before = self.still_missing()
        for folder in [path for path in self.root.iterdir() if path.is_dir()]:
            (folder / "half.tmp").write_bytes(b"what a kill left")
        self.store = self.opened()
        assert not list(self.root.rglob("*.tmp"))
        after = self.still_missing()  # zeros are there as soon as they have a place
        assert all(after[digest] <= before[digest] for digest in after)

    @rule(
        package=st.sampled_from(PACKAGES),
        steps=st.integers(0, 60),
        code=st.sampled_from((errno.ENOSPC, errno.EIO, errno.EROFS)),
    )
    def the_disk_fails_on_the_way(self, package: Sample, steps: int, code: int) -> None:
        def fail() -> None:
            raise OSError(code, os.strerror(code))

        self.under_way(package, lambda: self.failing_install(package, steps, fail))

    def failing_install(self, package: Sample, steps: int, fail: Callable[[], None]) -> None:
        with failing(steps, fail):
            try:
                self.install(package)
            except StoreError as error:
                assert str(self.root) in str(error) or self.cap < SMALL

    @rule(package=st.sampled_from(PACKAGES), steps=st.integers(0, 60))
    def a_kill_on_the_way(self, package: Sample, steps: int) -> None:
        def killed() -> None:
            child = os.fork()
            if child == 0:
                try:
                    with failing(steps, lambda: os._exit(9)):
                        self.install(package)
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            self.store = self.opened()
            assert not list(self.root.rglob("*.tmp"))

        self.under_way(package, killed)

    def under_way(self, package: Sample, work: Callable[[], None]) -> None:
        """Afterwards the old or the new version is current, and what other deployments had is there."""
        name = package.manifest.name
        old, new = self.versions.get(name, Versions()), self.committed(package)
        self.open[package.digest] = package
        before = self.still_missing()
        work()
        found = self.store.versions(name)
        assert found in (old, new)
        if found.current is not None:
            self.versions[name] = found
        after = self.still_missing()
        assert all(after[digest] <= before[digest] for digest in after)

    # -- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def versions_are_as_they_should_be(self) -> None:
        assert self.store.models() == self.versions

    @invariant()
    def what_is_current_or_previous_is_whole(self) -> None:
        for versions in self.versions.values():
            for digest in (versions.current, versions.previous):
                if digest is not None:
                    package = self.by_digest[digest]
                    assert self.store.manifest(digest) == package.encoded
                    for name, file in package.manifest.files.items():
                        assert self.store.path(file).read_bytes() == package.contents[name]

    @invariant()
    def it_is_bounded(self) -> None:
        manifests = sum(len(package.encoded) for package in PACKAGES)
        assert self.store.used_bytes() <= self.cap + manifests + 1000


class Tight(Machine):
    """With space for the versions of one model, and hardly more."""

    cap = 48_000


class Emptied(Machine):
    """Nothing that anybody leaves behind stays."""

    def teardown(self) -> None:
        self.is_full = False
        self.store = self.opened()  # what a failing disk did not let go
        for model in list(self.versions):
            self.store.remove(model)
        self.store.collect([])
        left = self.store.used_bytes()
        super().teardown()
        assert left == 0


class Healed(Tight):
    """Once there is space again, every model can be deployed."""

    def teardown(self) -> None:
        self.is_full = False
        self.open.clear()
        for model in list(self.versions):
            self.store.remove(model)
        try:
            for package in PACKAGES:
                self.store.remove(package.manifest.name)
                self.install(package)
                files = package.manifest.files.items()
                assert all(
                    self.store.path(file).read_bytes() == package.contents[name] for name, file in files
                )
        finally:
            super().teardown()


BOUNDED = settings(
    max_examples=12,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
for kind in (Tight, Emptied, Healed):
    kind.TestCase.settings = BOUNDED
TestTight, TestEmptied, TestHealed = Tight.TestCase, Emptied.TestCase, Healed.TestCase

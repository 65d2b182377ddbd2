"""Commands against the folders of one test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from tests.unit.cli.daemon import Folders


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def overlaid(folders: Folders, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command against the folders: (exit code, stdout, stderr)."""

    def run(*args: str) -> tuple[int, str, str]:
        code = main([*args, "--config", str(folders.config)])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines as long as they are, whatever terminal the tests run in."""
    monkeypatch.delenv("COLUMNS", raising=False)

from __future__ import annotations

from pathlib import Path

import pytest

from agent.doctor.configuration import judge, line_of, read
from agent.doctor.finding import Finding
from tests.unit.doctor.nodes import only

RESTART = "sudo systemctl restart overlaid"


def finding(path: Path | None, environ: dict[str, str] | None = None) -> Finding:
    return only(judge(read(path, environ or {}), RESTART, "overlaid"))


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('[node]\nname = "cam-7"\n[mqtt]\nport = 1883\n', 3, "mqtt.host"),
        ('[node]\nname = "cam-7"\n\n[mqtt]\nhost = "b"\nport = "x"\n', 6, "mqtt.port"),
        ('[node]\nname = "cam-7"\nnmae = "x"\n', 3, "node.nmae"),
        ('node.name = "Cam 7"\n', 1, "node.name"),
        ('[node]\nname = "cam-7\n', 2, "line 2"),
        ('[node]\nname = ["cam-7"', 2, "not valid TOML"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(text)

    found = finding(path)

    assert (found.level, f"line {line}" in found.what) == ("problem", True)
    assert reason in found.why
    assert f"+{line} {path}" in found.mend and RESTART in found.mend


def test_a_broken_file_does_not_show_its_secrets(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[mqtt]\nhost = "user:hunter2@broker"\npassword = 987654321\n')

    found = finding(path)

    assert "hunter2" not in str(found) and "987654321" not in str(found)


def test_a_variable_that_is_wrong_is_named_instead_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[node]\nname = "cam-7"\n')

    found = finding(path, {"OVERLAID_NODE_NAME": "Cam 7"})

    assert "OVERLAID_NODE_NAME" in found.mend and "line" not in found.what


def test_a_file_that_is_not_there_is_a_problem_none_at_all_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.paths.SYSTEM_CONFIG", tmp_path / "none.toml")

    assert finding(tmp_path / "agent.toml").level == "problem"
    assert finding(None).level == "warning"


def test_a_file_that_this_user_may_not_read_was_not_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("")

    def denied(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", denied)
    found = finding(path)

    assert found.level == "unknown"
    assert found.mend == f"sudo overlaid doctor --config {path}"


def test_a_valid_file_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text('[node]\nname = "cam-7"\n')

    [found] = judge(read(path, {}), RESTART, "overlaid")

    assert found.level == "ok"


def test_a_key_is_found_in_its_own_section() -> None:
    text = '# port\n[node]\nport = 1\n[ mqtt ]\n#host = "a"\nhost = "b"\n'

    assert line_of(text, "mqtt", "host") == 6
    assert line_of(text, "mqtt", "port") == 4  # the section's head: there it belongs
    assert line_of(text, "power", "cap_w") is None

"""What the package is made of, without building it: `make deb` and the booted Debian (tests/nspawn) do that."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from systemd.deb import build, layout

HERE = Path(build.__file__).parent
VALUES = {
    "VERSION": "1.1.0",
    "ARCH": "arm64",
    "KIB": "7",
    "SUMMARY": "s",
    "SCHEMAS": "state.db=4 outbox.db=1",
}


def test_the_control_file_has_what_dpkg_needs() -> None:
    text = build.filled((HERE / "control").read_text(), VALUES)
    fields = dict(re.findall(r"^([A-Z][A-Za-z-]+): (.*)$", text, flags=re.MULTILINE))
    assert fields["Package"] == "overlaid"
    assert (fields["Version"], fields["Architecture"], fields["Installed-Size"]) == ("1.1.0", "arm64", "7")
    assert "python3.11" in fields["Depends"] and "systemd" in fields["Depends"]
    assert text.endswith("\n") and "@" not in text.replace("@localhost", "")


def test_a_mark_without_a_value_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        build.filled("version=@VERSIONS@", VALUES)


@pytest.mark.parametrize("script", build.SCRIPTS)
def test_the_maintainer_scripts_are_posix_shell(script: str) -> None:
    text = build.filled((HERE / script).read_text(), VALUES)
    assert text.startswith("#!/bin/sh\n") and "\nset -e\n" in text
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, timeout=10, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_database_of_a_node_has_its_schema_in_the_package() -> None:
    assert re.fullmatch(r"state\.db=\d+ telemetry\.db=\d+ outbox\.db=\d+", build.schemas())


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A root for preinst: its absolute paths are taken below this folder."""
    for folder in (
        "var/lib/overlaid",
        "etc/overlaid",
        "etc/systemd/system",
        "opt/overlaid/share/overlaid/systemd",
    ):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def preinst(box: Path, *arguments: str) -> tuple[int, str]:
    text = build.filled((HERE / "preinst").read_text(), VALUES)
    text = re.sub(
        r"(?<![\w/$}])/(var/lib/overlaid|etc/overlaid|etc/systemd|opt/overlaid)", rf"{box}/\1", text
    )
    done = subprocess.run(
        ["sh", "-s", "--", *arguments], input=text, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stderr


def database(path: Path, schema: int) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.execute(f"PRAGMA user_version = {schema}")
    connection.close()


def test_a_fresh_machine_an_upgrade_and_the_same_version_are_welcome(box: Path) -> None:
    assert preinst(box, "install") == (0, "")
    database(box / "var/lib/overlaid/state.db", 3)
    database(box / "var/lib/overlaid/outbox.db", 1)
    for old in ("1.0.0", "1.1.0", "1.1.0~rc1"):
        assert preinst(box, "upgrade", old, "1.1.0") == (0, "")


def test_a_downgrade_is_refused_with_the_way_back(box: Path) -> None:
    rc, said = preinst(box, "upgrade", "1.2.0", "1.1.0")
    assert rc == 1
    assert "overlaid 1.2.0 is" in said and "sudo apt-get remove overlaid" in said


@pytest.mark.parametrize(("name", "schema"), [("state.db", 5), ("outbox.db", 300)])
@pytest.mark.parametrize("how", [("install", "1.2.0", "1.1.0"), ("upgrade", "1.0.0", "1.1.0")])
def test_state_of_a_newer_schema_is_refused_with_the_way_back(
    box: Path, name: str, schema: int, how: tuple[str, ...]
) -> None:
    database(box / "var/lib/overlaid" / name, schema)
    rc, said = preinst(box, *how)
    assert rc == 1
    assert f"{name} has schema {schema}" in said and "sudo mv" in said


def test_what_is_no_database_is_the_agents_to_judge(box: Path) -> None:
    (box / "var/lib/overlaid/state.db").write_bytes(b"short")
    (box / "var/lib/overlaid/outbox.db").touch()
    assert preinst(box, "install") == (0, "")


@pytest.mark.parametrize("path", ["opt/overlaid/pyvenv.cfg", "etc/systemd/system/overlaid.service"])
def test_an_installation_by_hand_is_not_overwritten(box: Path, path: str) -> None:
    (box / path).touch()
    rc, said = preinst(box, "install")
    assert rc == 1 and "overlaid service uninstall" in said
    assert preinst(box, "upgrade", "1.0.0", "1.1.0")[0] == 0  # then they are the package's own


def test_an_untouched_sample_is_replaced_and_a_changed_one_kept(box: Path) -> None:
    config, sample = box / "etc/overlaid/agent.toml", box / "opt/overlaid/share/overlaid/systemd/agent.toml"
    for text in ("# sample\n", "# mine\n"):
        sample.write_text("# sample\n")
        config.write_text(text)
        assert preinst(box, "upgrade", "1.0.0", "1.1.0") == (0, "")
        assert config.exists() == (text == "# mine\n")


def test_the_environment_is_debians_python_with_its_own_packages(tmp_path: Path) -> None:
    (tmp_path / layout.PACKAGES / "share/overlaid").mkdir(parents=True)
    layout.environment(tmp_path)
    home = tmp_path / "opt/overlaid"
    assert (home / "bin/python3.11").readlink() == Path("/usr/bin/python3.11")
    assert (home / "bin/overlaid").read_text().startswith("#!/opt/overlaid/bin/python3\n")
    assert (home / "bin/overlaid").stat().st_mode & 0o777 == 0o755
    assert "include-system-site-packages = false" in (home / "pyvenv.cfg").read_text()
    assert (tmp_path / "usr/bin/overlaid").readlink() == Path("/opt/overlaid/bin/overlaid")
    assert (home / "share/overlaid").is_dir() and not (tmp_path / layout.PACKAGES / "share").exists()


def test_records_name_what_is_left(tmp_path: Path) -> None:
    info = tmp_path / "lib-1.dist-info"
    info.mkdir()
    for name in ("direct_url.json", "METADATA"):
        (info / name).touch()
    (tmp_path / "lib.py").touch()
    rows = [
        "lib.py,sha256=x,0",
        "../../bin/lib,sha256=y,1",
        f"{info.name}/direct_url.json,,",
        f"{info.name}/METADATA,,",
    ]
    (info / "RECORD").write_text("\n".join(rows))
    layout.clean(tmp_path)
    assert (info / "RECORD").read_text() == "lib-1.dist-info/METADATA,,\nlib.py,sha256=x,0\n"
    assert not (info / "direct_url.json").exists()


def test_every_file_has_one_date_and_a_plain_mode(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(mode=0o700)
    script, text, link = tmp_path / "folder/script", tmp_path / "text", tmp_path / "link"
    for path, mode in ((script, 0o770), (text, 0o600)):
        path.touch()
        path.chmod(mode)
    link.symlink_to("text")
    layout.date(tmp_path, 86400)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "folder", script, text)] == [
        0o755,
        0o755,
        0o644,
    ]
    assert {path.lstat().st_mtime for path in (tmp_path / "folder", script, text, link)} == {86400}


def test_the_unit_starts_what_the_package_brings() -> None:
    unit = (build.REPO / "systemd/overlaid.service").read_text()
    assert f"ExecStart=/{layout.HOME}/bin/overlaid run" in unit
    for source in layout.SYSTEM_FILES:
        assert (build.REPO / "systemd" / source).is_file()


def test_the_lock_is_of_hashes_alone() -> None:
    text = build.LOCK.read_text()
    requirements = re.findall(r"^[a-zA-Z0-9-]+==\S+.* \\$", text, flags=re.MULTILINE)
    assert len(requirements) > 30 and text.count("--hash=sha256:") > len(requirements)
    assert "://" not in text

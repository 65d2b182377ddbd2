from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from agent.doctor.finding import Finding
from agent.doctor.permissions import Facts, File, Node, file_at, judge, look
from agent.doctor.subject import User, this_user
from tests.unit.doctor.nodes import DAEMON, ROOT, SOMEBODY, node, only, wrong

MQTT = '[mqtt]\nhost = "b"\nca = "{0}/ca.pem"\ncert = "{0}/node.pem"\nkey = "{0}/node.key"\n'
ETC = Path("/etc/overlaid")
FOLDERS = (Node(Path("/"), 0o755, 0, 0), Node(ETC, 0o750, 0, DAEMON.gid))


def secret(
    mode: int, uid: int = DAEMON.uid, gid: int = DAEMON.gid, folders: tuple[Node, ...] = FOLDERS
) -> File:
    path = ETC / "mqtt.password"
    return File("secret", "mqtt.password_file", path, Node(path, mode, uid, gid), "", folders)


def config(mode: int, gid: int = DAEMON.gid) -> File:
    path = ETC / "agent.toml"
    return File("config", "--config", path, Node(path, mode, 0, gid), "", FOLDERS)


def judged(tmp_path: Path, *files: File, text: str = "") -> list[Finding]:
    return wrong(judge(Facts(files), node(tmp_path, text)))


def test_files_as_the_package_makes_them_are_fine(tmp_path: Path) -> None:
    assert not judged(tmp_path, secret(0o400), config(0o640), text='[mqtt]\nhost = "b"\npassword = "x"\n')


def test_a_config_with_a_password_that_all_may_read_is_a_problem(tmp_path: Path) -> None:
    [found] = judged(tmp_path, config(0o644), text='[mqtt]\nhost = "b"\npassword = "hunter2"\n')

    assert found.level == "problem" and "password" in found.what and "hunter2" not in str(found)
    assert found.mend == "sudo chmod 0640 /etc/overlaid/agent.toml"
    assert not judged(tmp_path, config(0o644), text='[mqtt]\nhost = "b"\n#password = "x"\n')


def test_a_config_that_others_may_write_is_a_problem(tmp_path: Path) -> None:
    [found] = judged(tmp_path, config(0o660))

    assert found.mend == "sudo chmod go-w /etc/overlaid/agent.toml"


@pytest.mark.parametrize("mode", [0o444, 0o404, 0o402])
def test_a_secret_that_all_may_read_or_change_is_a_problem(tmp_path: Path, mode: int) -> None:
    [found] = judged(tmp_path, secret(mode))

    assert (found.level, found.mend) == ("problem", "sudo chmod 0400 /etc/overlaid/mqtt.password")
    assert "replace the secret" in found.why


def test_a_secret_of_the_group_is_a_warning(tmp_path: Path) -> None:
    [found] = judged(tmp_path, secret(0o440))

    assert found.level == "warning"


def test_a_secret_that_the_daemon_may_not_read_is_a_problem(tmp_path: Path) -> None:
    [found] = judged(tmp_path, secret(0o400, uid=0, gid=0))

    assert "may not read" in found.what and "overlaid" in found.mend


def test_a_folder_that_the_daemon_may_not_enter_is_named(tmp_path: Path) -> None:
    [found] = judged(tmp_path, secret(0o400, folders=(FOLDERS[0], Node(ETC, 0o700, 0, 0))))

    assert "may not enter /etc/overlaid" in found.what and "chmod g+rx /etc/overlaid" in found.mend


def test_a_folder_in_which_all_may_write_is_a_problem_unless_sticky(tmp_path: Path) -> None:
    [found] = judged(tmp_path, secret(0o400, folders=(Node(Path("/data"), 0o777, 0, 0),)))
    assert "everybody may replace" in found.what

    sticky = Node(Path("/data"), 0o777 | stat.S_ISVTX, 0, 0)
    assert not judged(tmp_path, secret(0o400, folders=(sticky,)))


def test_what_the_service_does_not_see_is_told(tmp_path: Path) -> None:
    path = Path("/home/ann/ca.pem")
    file = File("public", "mqtt.ca", path, Node(path, 0o644, 1000, 1000))

    [found] = judged(tmp_path, file)

    assert "does not see" in found.what and "/home" in found.why
    assert 'ca = "/etc/overlaid/ca.pem"' in found.mend


def test_files_are_looked_at_and_a_missing_one_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "node.pem").write_text("")
    me = this_user()
    subject = node(tmp_path, MQTT.format(tmp_path), by_service=False, user=me, viewer=me)

    found = only(judge(look(subject), subject))

    assert "mqtt.key" in found.what and "is not there" in found.what
    (tmp_path / "node.key").touch(mode=0o604)
    assert only(judge(look(subject), subject)).mend == f"chmod 0400 {tmp_path / 'node.key'}"
    (tmp_path / "node.key").chmod(0o400)
    assert not wrong(judge(look(subject), subject))


def test_what_cannot_be_looked_at_is_not_called_missing(tmp_path: Path) -> None:
    file = File("secret", "mqtt.key", ETC / "pki/node.key", None, "denied")
    subject = node(tmp_path, viewer=SOMEBODY)

    found = only(judge(Facts((file,)), subject))

    assert found.level == "unknown" and found.mend.startswith("sudo ")


def test_what_another_area_calls_missing_is_not_told_twice(tmp_path: Path) -> None:
    root = File("public", "trust.root", ETC / "root.json", None, "missing")

    assert not judged(tmp_path, root)


def test_links_count_as_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "real").touch(mode=0o400)
    (tmp_path / "link").symlink_to("real")

    found = file_at("secret", "mqtt.key", tmp_path / "link").found

    assert found is not None and found.mode == 0o400


def test_a_state_folder_of_another_user_is_a_problem(tmp_path: Path) -> None:
    subject = node(tmp_path)
    state = Node(Path("/var/lib/overlaid"), 0o750, 0, 0)

    found = only(judge(Facts((), state), subject))

    assert "may not write" in found.what
    assert "chown -R overlaid:" in found.mend


def test_files_of_strangers_in_the_state_folder_are_found(tmp_path: Path) -> None:
    me = this_user()
    subject = node(tmp_path, by_service=False, user=me, viewer=me)
    subject.folders.state.mkdir()
    (subject.folders.state / "state.db").touch()
    assert not look(subject).strangers

    other = User("other", os.getuid() + 1, os.getgid())
    stranger = node(tmp_path, by_service=False, user=other, viewer=me)
    assert [path.name for path in look(stranger).strangers] == ["state.db"]

    state = Node(Path("/var/lib/overlaid"), 0o750, DAEMON.uid, DAEMON.gid)
    found = only(judge(Facts((), state, (state.path / "state.db",)), node(tmp_path)))
    assert "state.db" in found.what and "chown -R" in found.mend


def test_a_state_folder_in_which_all_may_write_is_a_problem(tmp_path: Path) -> None:
    state = Node(Path("/var/lib/overlaid"), 0o757, DAEMON.uid, DAEMON.gid)

    assert only(judge(Facts((), state), node(tmp_path))).mend == "sudo chmod 0750 /var/lib/overlaid"


def test_who_is_not_in_the_sockets_group_is_told_how_to_join(tmp_path: Path) -> None:
    socket = Node(Path("/run/overlaid/control.sock"), 0o660, DAEMON.uid, DAEMON.gid)
    subject = node(tmp_path, viewer=SOMEBODY)

    joins = only(judge(Facts((), socket=socket), subject))
    again = only(judge(Facts((), socket=socket, member=True), subject))

    assert joins.mend == "sudo usermod --append --groups 990 ann"
    assert again.mend == "newgrp 990"
    assert not wrong(judge(Facts((), socket=socket), node(tmp_path, viewer=ROOT)))


def test_a_socket_of_another_group_is_a_problem(tmp_path: Path) -> None:
    socket = Node(Path("/run/overlaid/control.sock"), 0o660, 0, 0)

    assert "belongs to the group root" in only(judge(Facts((), socket=socket), node(tmp_path))).what

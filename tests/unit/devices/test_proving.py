from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.devices.proving import Outcome, forbids_new_code, prove_in_processes

TELL = "from agent.devices.proving import tell_outcome\n"
# prctl(2): PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN; what systemd's MemoryDenyWriteExecute uses
SANDBOXED = """
import ctypes, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): sys.exit(77)
from agent.devices.proving import forbids_new_code, prove_in_processes
assert forbids_new_code()
print(prove_in_processes({"it": ("crashing",), "old": ("illegal",)}, 30))
"""
FRUGAL = """
import resource
from agent.devices.proving import prove_in_processes
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
print(prove_in_processes({"it": ("talking",)}, 30)["it"].version)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules child processes find."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return tmp_path


def outcome(modules: Path, code: str, timeout_s: float = 30) -> Outcome:
    (modules / "proof.py").write_text(code)
    return prove_in_processes({"it": ("proof", "argument")}, timeout_s)["it"]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import sys\ntell_outcome(lambda: sys.argv[1])", Outcome("argument")),
        ("tell_outcome(lambda: '')", Outcome()),
        ("print('a driver says')\nprint('hi', end='')\ntell_outcome(lambda: '1.2')", Outcome("1.2")),
        ("import os\nos.write(1, b'\\xff\\xfe')\ntell_outcome(lambda: '1.2')", Outcome("1.2")),
        ("tell_outcome(lambda: 1 // 0)", Outcome(problem="integer division or modulo by zero")),
        ("tell_outcome(lambda: '1'); raise SystemExit(3)", Outcome("1")),
        ("print('[]')", Outcome(problem="ended with exit code 0 while loading a tiny model")),
        ("", Outcome(problem="ended with exit code 0 while loading a tiny model")),
        ("print('9' * 10**6)\ntell_outcome(lambda: '1.2')", Outcome("1.2")),
        ("print('9' * 10**6)", Outcome(problem="ended with exit code 0 while loading a tiny model")),
    ],
)
def test_what_came_of_it(modules: Path, code: str, found: Outcome) -> None:
    assert outcome(modules, TELL + code) == found


def test_each_has_its_own_outcome_and_one_deadline(modules: Path) -> None:
    (modules / "good.py").write_text(f"{TELL}tell_outcome(lambda: '1')")
    (modules / "hanging.py").write_text("import time\ntime.sleep(600)")
    found = prove_in_processes({"a": ("good",)}, 30) | prove_in_processes({"b": ("hanging",)}, 0.2)
    assert found["a"] == Outcome("1")
    assert "took too long" in found["b"].problem
    assert prove_in_processes({}, 30) == {}


def test_a_signal_without_a_name(modules: Path) -> None:
    found = outcome(modules, "import os\nos.kill(os.getpid(), 40)")
    assert found.problem.startswith("crashed with signal 40 while loading a tiny model")


def test_runtimes_do_not_see_the_brokers_password(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERLAID_MQTT_PASSWORD", "secret")
    look = "import os\ntell_outcome(lambda: str(sorted(name for name in os.environ if 'MQTT' in name)))"
    assert outcome(modules, TELL + look) == Outcome("[]")


def test_who_talks_without_end_takes_neither_memory_nor_more_time(modules: Path) -> None:
    (modules / "talking.py").write_text(
        f"{TELL}import os\nfor _ in range(800): os.write(1, bytes(1 << 20))\ntell_outcome(lambda: '1.2')"
    )
    done = subprocess.run(
        [sys.executable, "-c", FRUGAL], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "1.2\n", done.stderr
    assert "took too long" in outcome(modules, "while True: print('driver', flush=True)", 1.0).problem


@pytest.mark.parametrize("hanging", ["time.sleep(600)", "os.close(1); time.sleep(600)"])
def test_who_cannot_be_killed_is_left(modules: Path, monkeypatch: pytest.MonkeyPatch, hanging: str) -> None:
    """As a process that waits for a driver inside the kernel."""
    left: list[subprocess.Popen[bytes]] = []

    def kill(process: subprocess.Popen[bytes]) -> None:
        left.append(process)

    monkeypatch.setattr(subprocess.Popen, "kill", kill)
    (modules / "good.py").write_text(f"{TELL}tell_outcome(lambda: '1')")
    (modules / "hanging.py").write_text(f"import os, time\n{hanging}")
    try:
        found = prove_in_processes({"b": ("hanging",), "a": ("good",)}, 5.0)
    finally:
        for process in left:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert len(left) == 1
    assert "took too long" in found["b"].problem
    assert found["a"] == Outcome("1")


def test_a_crash_under_a_sandbox_names_what_relaxes_it(modules: Path) -> None:
    (modules / "crashing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    (modules / "illegal.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGILL)")
    done = subprocess.run(
        [sys.executable, "-c", SANDBOXED], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3 has)")
    assert done.returncode == 0, done.stderr
    assert not forbids_new_code()
    crashed, illegal = done.stdout.split("'old'")
    assert "SIGSEGV" in crashed and "install systemd/overlaid-gpu.conf" in crashed
    assert "SIGILL" in illegal and "built for another CPU" in illegal

"""Triton and MLServer as processes on 127.0.0.1, running the same ONNX models as we do. From ``.venv-peers``."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.types import TensorSpec
from tests.system.brokers import free_port
from tests.system.stage import ROOT, StageError, stop_process, wait_until

VENV = ROOT / ".venv-peers"
PYTHON = VENV / "bin/python"
HERE = Path(__file__).parent
START_S = 60.0
MAX_BATCH = 4096


@dataclass(frozen=True, slots=True)
class Served:
    """An ONNX model and its tensors, as a package's manifest would declare them."""

    name: str
    file: Path
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]


def missing() -> str | None:
    """Why there are no peers on this machine, None when there are."""
    return None if PYTHON.exists() else "no .venv-peers; `make peers` makes it"


@dataclass(frozen=True, slots=True)
class Peer:
    """A running server."""

    process: subprocess.Popen[bytes]
    port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def triton(folder: Path, models: Sequence[Served]) -> Iterator[Peer]:
    """The tritonserver of nvidia-pytriton's wheel: one process per model, HTTP alone. ``folder``: empty.

    StageError when it does not start.
    """
    version, libraries = _python()
    packages = VENV / f"lib/python{version}/site-packages"
    server = packages / "pytriton/tritonserver"
    backend = folder / "backends/python"
    backend.mkdir(parents=True)
    stub = server / f"python_backend_stubs/{version}/triton_python_backend_stub"
    for file in (*(server / "backends/python").iterdir(), stub):
        (backend / file.name).symlink_to(file)
    for model in models:
        _triton_model(folder / "models" / model.name, model)
    port = free_port()
    options = {
        "model-repository": folder / "models",
        "backend-directory": backend.parent,
        "http-address": "127.0.0.1",
        "http-port": port,
        "allow-grpc": "false",
        "allow-metrics": "false",
    }
    environment = {
        "LD_LIBRARY_PATH": f"{packages / 'nvidia_pytriton.libs'}:{libraries}",
        "VIRTUAL_ENV": str(VENV),
    }
    command = [str(server / "bin/tritonserver"), "--disable-auto-complete-config"]
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    memory = f"triton-{os.getpid()}-{port}-"
    command.append(f"--backend-config=python,shm-region-prefix-name={memory}")
    try:
        with _running("triton", command, folder, environment, port) as peer:
            yield peer
    finally:
        for left in Path("/dev/shm").glob(f"{memory}*"):  # when it crashed
            left.unlink()


@contextmanager
def mlserver(folder: Path, models: Sequence[Served]) -> Iterator[Peer]:
    """MLServer with a runtime of a few lines (mlserver_runtime.py), models in its own process. ``folder``: empty.

    StageError when it does not start.
    """
    port = free_port()
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    for model in models:
        (folder / model.name).mkdir()
        parameters = {"uri": str(model.file), "version": "1.0.0"}
        runtime = {
            "name": model.name, "implementation": "mlserver_runtime.OnnxRuntime", "parameters": parameters,
        }  # fmt: skip
        (folder / model.name / "model-settings.json").write_text(json.dumps(runtime))
    command = [str(VENV / "bin/mlserver"), "start", str(folder)]
    with _running("mlserver", command, folder, {"PYTHONPATH": str(HERE)}, port) as peer:
        yield peer


@contextmanager
def _running(
    name: str, command: Sequence[str], folder: Path, environment: dict[str, str], port: int
) -> Iterator[Peer]:
    path = f"{VENV / 'bin'}:{os.environ['PATH']}"
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": path, "ORT_DISABLE_TELEMETRY": "1"} | environment,
            stdout=out,
            stderr=out,
            start_new_session=True,  # Triton leaves its models' processes behind when it crashes
        )
    try:
        peer = Peer(process, port)
        wait_until(name, lambda: _ready(peer, log), START_S)
        yield peer
    finally:
        stop_process(process)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _ready(peer: Peer, log: Path) -> bool:
    if peer.process.poll() is not None:
        raise StageError(
            f"it ended with {peer.process.returncode}:\n{log.read_text(errors='replace')[-4000:]}"
        )
    connection = http.client.HTTPConnection(peer.address, timeout=5)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _triton_model(folder: Path, model: Served) -> None:
    (folder / "1").mkdir(parents=True)
    (folder / "1/model.py").symlink_to(HERE / "triton_model.py")
    (folder / "1/model.onnx").symlink_to(model.file)
    free = all(spec.dynamic for spec in (*model.inputs, *model.outputs))
    batch = MAX_BATCH if free else 0  # the first dimension is not among the others then
    (folder / "config.pbtxt").write_text(
        f'name: "{model.name}"\nbackend: "python"\nmax_batch_size: {batch}\n'
        f"input [{_tensors(model.inputs, free)}]\noutput [{_tensors(model.outputs, free)}]\n"
        "instance_group [{kind: KIND_CPU count: 1}]\n"
    )


def _tensors(specs: Sequence[TensorSpec], free: bool) -> str:
    types = {spec.name: "STRING" if spec.dtype == "BYTES" else spec.dtype for spec in specs}
    return ", ".join(
        f'{{name: "{spec.name}" data_type: TYPE_{types[spec.name]} dims: {list(spec.shape[free:])}}}'
        for spec in specs
    )


def _python() -> tuple[str, str]:
    """Version of the peers' Python, such as 3.11, and the folder of libpython where it has one of its own."""
    code = "import sys, sysconfig; print('%d.%d' % sys.version_info[:2]); print(sysconfig.get_config_var('LIBDIR'))"
    done = subprocess.run([str(PYTHON), "-c", code], check=True, capture_output=True, text=True)
    version, folder = done.stdout.splitlines()
    return version, folder

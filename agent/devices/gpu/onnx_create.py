"""Sessions of ONNX Runtime with one execution provider, built in or a plugin."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.devices.gpu import assignment, onnx_errors
from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.native_log import captured
from agent.devices.gpu.providers import Setup, choose, find, has_plugin, plugin_library
from agent.errors import RuntimeUnavailable
from agent.hal.device import Tensors

# As in onnx_cpu: a node tells nobody but its operator.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# CUDA counts the fastest GPU first; ``Gpu.index`` counts by address. Read when CUDA starts.
os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"

_plugins: set[str] = set()  # registered in this process


def create(path: Path, gpu: Gpu, provider: str, setup: Setup, profile: Path | None = None) -> Any:
    """An ``InferenceSession`` with ``provider`` and, for what it does not take, the CPU.

    RuntimeUnavailable when the provider is not there or does not work, with the runtime's own reason; ImportError
    without the runtime; else the runtime's own errors. ``profile``: where a profile is to be written, without suffix.
    """
    import onnxruntime

    spec, printed, failed = find(provider), io.StringIO(), None
    onnxruntime.set_default_logger_severity(3)  # errors, among them why a provider does not start
    options = _options(onnxruntime, setup, profile)
    with captured() as native, contextlib.redirect_stdout(printed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about what is checked below
        try:
            arguments = _select(onnxruntime, options, gpu, provider, setup)
            # Without the runtime's own fallback, which prints and goes on with the CPU. Old ones do so all the same.
            session = onnxruntime.InferenceSession(str(path), options, enable_fallback=0, **arguments)
        except Exception as error:
            failed = error
    if swallowed := onnx_errors.swallowed(printed.getvalue()):
        failed = RuntimeError(swallowed)
    if failed is not None and not onnx_errors.is_providers(failed):
        raise failed
    if failed is not None or spec.ep not in session.get_providers():
        said = onnx_errors.plain(str(failed)) if failed is not None else "ONNX Runtime gives no reason"
        raise RuntimeUnavailable(
            f"{spec.ep} does not start: {onnx_errors.reason(native.text) or said}"
        ) from failed
    native.forward(native.text.splitlines())
    return session


def profile_run(
    create_at: Callable[[Path], Any], zeros: Tensors
) -> tuple[tuple[assignment.Node, ...], Exception | None]:
    """The nodes of one run of the session that ``create_at`` makes for a profile's path, and what the run failed with.

    Raises what ``create_at`` does.
    """
    with tempfile.TemporaryDirectory(prefix="overlaid-") as folder:
        session, failed = create_at(Path(folder) / "profile"), None
        try:
            session.run(None, dict(zeros))
        except Exception as error:
            failed = error
        return assignment.read_profile(Path(session.end_profiling())), failed


def _options(runtime: Any, setup: Setup, profile: Path | None) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = setup.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong in a run is raised
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")  # unknown before 1.24
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return options


def _select(runtime: Any, options: Any, gpu: Gpu, provider: str, setup: Setup) -> Mapping[str, Any]:
    """Tell the session of the provider: by arguments, returned, where it is built in; plugins by its options."""
    spec = find(provider)
    if provider == "webgpu":
        _admit_adapters(gpu)
    if provider not in _plugins and spec.ep in runtime.get_available_providers():
        if "nvidia" in spec.vendors and hasattr(
            runtime, "preload_dlls"
        ):  # since 1.21: loads CUDA from its wheels
            runtime.preload_dlls()
        together = [spec, *(find(name) for name in spec.same_gpu)]
        return {"providers": [(each.ep, each.options(gpu, setup)) for each in together]}
    if not has_plugin(spec) or not hasattr(runtime, "register_execution_provider_library"):
        raise RuntimeUnavailable(
            f"onnxruntime {runtime.__version__} has no {spec.ep}; {spec.install}, "
            "in place of other builds of onnxruntime"
        )
    if provider not in _plugins:
        runtime.register_execution_provider_library(provider, plugin_library(spec))
        _plugins.add(provider)
    device = choose(runtime.get_ep_devices(), gpu, spec.ep)
    options.add_provider_for_devices([device], spec.options(gpu, setup))
    return {}


def _admit_adapters(gpu: Gpu) -> None:
    """The WebGPU provider takes the best Vulkan device that it sees, which may be a renderer on the CPU: hide these
    from the Vulkan loader, unless one of them is what is asked for."""
    if gpu.software:
        os.environ["ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER"] = "1"
    elif gpu.id != "gpu":
        raise RuntimeUnavailable(
            "the WebGPU provider chooses among several GPUs and does not say which; use another provider here"
        )
    else:
        os.environ["VK_LOADER_DRIVERS_DISABLE"] = "*lvp*,*swiftshader*"

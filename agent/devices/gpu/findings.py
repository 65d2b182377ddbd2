"""Why a GPU is not usable and what to do about it, in lines for people. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from agent.devices.gpu.gpus import Gpu
from agent.devices.gpu.surroundings import Node, Surroundings

DROP_IN = (
    "install systemd/overlaid-gpu.conf as /etc/systemd/system/overlaid.service.d/gpu.conf, then: "
    "sudo systemctl daemon-reload && sudo systemctl restart overlaid"
)
JETSON_DROP_IN = DROP_IN.replace(
    ", then:", " and systemd/overlaid-jetson.conf as jetson.conf beside it, then:"
)
DRIVERS = {
    "nvidia": "install NVIDIA's driver (the package nvidia-driver or nvidia-open) and restart the machine",
    "amd": "sudo modprobe amdgpu; when that does not help, install firmware-amd-graphics and restart the machine",
    "intel": "sudo modprobe i915 or, for newer ones, xe; when that does not help, install a newer kernel",
}
# What can use a GPU, by vendor; each with what installs it.
RUNTIMES = {
    "nvidia": "pip install 'onnxruntime-gpu[cuda,cudnn]' for ONNX models, 'overlaid[opencl]' for overlay programs",
    "amd": "pip install onnxruntime-migraphx for ONNX models, 'overlaid[opencl]' for overlay programs",
    "intel": "pip install onnxruntime-openvino for ONNX models, 'overlaid[opencl]' for overlay programs",
}
ANY_RUNTIME = "pip install 'overlaid[opencl]' for overlay programs, 'overlaid[litert]' for TFLite models"
# Libraries that providers miss: the start of a name, and what brings it.
LIBRARIES = (
    ("libcudnn", "install cuDNN: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    (
        "libcuda.so",
        "install the NVIDIA driver's library of that name (libcuda1 on Debian); no pip package has it",
    ),
    ("libnvidia-", "install the NVIDIA driver's library of that name; no pip package has it"),
    ("libnvinfer", "install TensorRT: pip install tensorrt"),
    ("libnvonnxparser", "install TensorRT: pip install tensorrt"),
    ("libcu", "install CUDA's libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("libnv", "install CUDA's libraries: pip install 'onnxruntime-gpu[cuda,cudnn]'"),
    ("libmigraphx", "install ROCm's package migraphx"),
    ("libamdhip64", "install ROCm's package hip-runtime-amd"),
    ("libMIOpen", "install ROCm's package miopen-hip"),
    ("libroc", "install ROCm"),
    ("libhip", "install ROCm"),
    (
        "libopenvino",
        "install the OpenVINO that this onnxruntime-openvino was built for: pip install openvino",
    ),
    (
        "libvulkan",
        "install the package libvulkan1, and the GPU's Vulkan driver (mesa-vulkan-drivers, or its vendor's)",
    ),
    ("libOpenCL", "install the package ocl-icd-libopencl1"),
    ("libze_", "install the package libze1"),
    ("libEGL", "install the package libegl1"),
)
NOT_FOUND = re.compile(r"(lib[\w+.-]+\.so(?:\.\d+)*): cannot open shared object file")
OLD_DRIVER = "driver version is insufficient for CUDA runtime version"
NO_KERNELS = "no kernel image is available"
NO_ADAPTER = "No supported adapters"  # Dawn's word for a Vulkan without GPUs
MOST = 240  # characters of a provider's own words


def problems_of(gpu: Gpu, around: Surroundings, failures: Mapping[str, str], works: bool) -> tuple[str, ...]:
    """Why the GPU is not usable, or not by every runtime that is installed; empty when nothing is wrong.

    ``failures``: by route what it said. ``works``: some other route was proved. What lies below explains what the
    routes say, but for libraries that are missing; these are told beside.
    """
    if works and not failures:
        return ()
    causes = explain(gpu, around)
    shown = {
        route: text
        for route, text in failures.items()
        if works or not causes or NOT_FOUND.search(text) is not None
    }
    lines = [*causes, *(f"{route}: {shorten(text)}" for route, text in sorted(shown.items()))]
    if not lines:
        lines = [
            f"no runtime that is installed uses it ({gpu.name}); {RUNTIMES.get(gpu.vendor, ANY_RUNTIME)}"
        ]
    return tuple(f"{gpu.id}: {line}" for line in lines)


def explain(gpu: Gpu, around: Surroundings) -> tuple[str, ...]:
    """What is wrong below all runtimes, each with the next step."""
    if gpu.software:
        return ()
    return tuple([*_of_driver(gpu), *_of_nodes(gpu, around), *_of_nvidia(gpu, around)])


def shorten(text: str) -> str:
    """What a runtime said, as a cause and the next step where it is known, else in its own words."""
    missing = list(dict.fromkeys(NOT_FOUND.findall(text)))
    if missing:
        return f"{', '.join(missing)} cannot be found; {_brings(missing[0])}"
    if OLD_DRIVER in text:
        return "the NVIDIA driver is too old for this CUDA; update it, or install a runtime for an older CUDA"
    if NO_KERNELS in text:
        return "this build has no code for a GPU of this generation; install another version of the runtime"
    if NO_ADAPTER in text:
        return (
            "Vulkan offers no GPU; install its Vulkan driver (mesa-vulkan-drivers, or its vendor's) and see "
            "vulkaninfo --summary"
        )
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."


def _brings(library: str) -> str:
    return next(
        (text for start, text in LIBRARIES if library.startswith(start)),
        "install the package that has it; `apt-file search` finds its name",
    )


def _of_driver(gpu: Gpu) -> Iterator[str]:
    if gpu.driver == "vfio-pci":
        yield f"{gpu.name} at {gpu.pci} is kept for virtual machines (vfio-pci); unbind it there to use it here"
    elif gpu.pci and not gpu.driver:
        yield f"no driver is bound to {gpu.name} at {gpu.pci}; {DRIVERS.get(gpu.vendor, 'install its driver')}"
    elif gpu.driver == "nouveau" and gpu.pci:
        yield f"{gpu.name} runs with nouveau, which has no CUDA; {DRIVERS['nvidia']}"


def _of_nodes(gpu: Gpu, around: Surroundings) -> Iterator[str]:
    missing = [node.path for node in around.nodes if node.state == "missing"]
    if missing:
        yield _of_missing(gpu, missing, around)
    for node in around.nodes:
        if node.state == "denied":
            yield _of_denied(node, around)
        elif node.state == "forbidden" and around.place == "service":
            yield f"{node.path} is not among the service's devices; {_drop_in(gpu)}"
        elif node.state == "forbidden":
            yield f"{node.path} is not among the devices that this container may open; {_pass_on(gpu, [node.path])}"
        elif node.state == "failing":
            yield f"{node.path} does not open ({node.why}); {_ask_kernel(gpu)}"


def _of_missing(gpu: Gpu, missing: Sequence[str], around: Surroundings) -> str:
    files = ", ".join(missing)
    there = len(missing) < len(around.nodes)
    if missing == ["/dev/nvidia-uvm"]:
        return f"{files} is missing: sudo nvidia-modprobe -u -c 0 makes it now, nvidia-persistenced at every start"
    if around.place == "service" and not there:
        return f"the service does not see {files} (PrivateDevices); {_drop_in(gpu)}"
    if around.place == "container":
        return f"this container has no {files}; {_pass_on(gpu, missing)}"
    return f"driver {gpu.driver} has made no {files}; {_ask_kernel(gpu)}"


def _of_denied(node: Node, around: Surroundings) -> str:
    if node.group == "root":
        name = node.path.rsplit("/", 1)[-1]
        return (
            f'{node.path} is root\'s alone; put KERNEL=="{name}", GROUP="render", MODE="0660" into '
            "/etc/udev/rules.d/70-gpu.rules, then: sudo udevadm control --reload && sudo udevadm trigger"
        )
    then = "sudo systemctl restart overlaid" if around.place == "service" else "log in again"
    group = node.group or f'"$(stat -c %g {node.path})"'
    return (
        f"user {around.user} may not open {node.path}: sudo usermod --append --groups {group} {around.user}, "
        f"then {then}"
    )


def _of_nvidia(gpu: Gpu, around: Surroundings) -> Iterator[str]:
    if gpu.driver != "nvidia" or not around.nvidia_driver:
        return
    found = ", ".join(around.nvidia_libraries)
    if not found:
        library = (
            "start it with --gpus all"
            if around.place == "container"
            else "install libcuda1 (Debian) of that version"
        )
        yield f"the library of NVIDIA's driver {around.nvidia_driver} is not there; {library}"
    elif around.nvidia_driver not in around.nvidia_libraries:
        yield (
            f"NVIDIA's driver is {around.nvidia_driver}, its library {found}; restart the machine, so that the driver "
            "that belongs to the library is loaded"
        )


def _drop_in(gpu: Gpu) -> str:
    return JETSON_DROP_IN if gpu.driver == "nvgpu" else DROP_IN


def _pass_on(gpu: Gpu, nodes: Sequence[str]) -> str:
    if gpu.driver == "nvidia":
        return "start it with --gpus all (NVIDIA Container Toolkit)"
    return f"start it with {' '.join(f'--device {node}' for node in nodes)}"


def _ask_kernel(gpu: Gpu) -> str:
    return f"sudo dmesg | grep -i {gpu.driver or 'gpu'} says why"

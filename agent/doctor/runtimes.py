"""Whether what runs models on the CPU can be loaded: each tried in a process of its own, as the daemon does."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.devices.cpu import BACKENDS, Proof, prove_backends
from agent.doctor.finding import Finding, cause_and_cure, ok, problem, warning

AREA = "runtimes"
PACKAGES = ("numpy", "ai-edge-litert", "tflite-runtime")
ONNX = "onnxruntime"
NOT_INSTALLED = "not installed"


@dataclass(frozen=True, slots=True)
class Facts:
    """``versions``: of what is installed of PACKAGES and of each onnxruntime. ``pip``: the command for this
    environment."""

    proof: Proof
    versions: Mapping[str, str]
    pip: str = "pip"


def look(proof: Proof | None = None) -> Facts:
    """``proof``: when they were tried already. Takes seconds otherwise."""
    versions = {}
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in PACKAGES or (name.startswith(ONNX) and _brings_onnxruntime(distribution)):
            versions[name] = distribution.version
    sudo = "" if os.access(sys.prefix, os.W_OK) and os.geteuid() != 0 else "sudo "
    return Facts(proof or prove_backends(), versions, f"{sudo}{sys.prefix}/bin/python -m pip")


def _brings_onnxruntime(distribution: importlib.metadata.Distribution) -> bool:
    """Not only something that plugs into it."""
    return any(str(file) == f"{ONNX}/__init__.py" for file in distribution.files or ())


def judge(facts: Facts) -> list[Finding]:
    found = [ok(AREA, f"{backend.name} {backend.version} works") for backend in facts.proof.backends]
    mismatch = list(_tflite_beside_numpy(facts))
    for text in facts.proof.problems:
        name, _, said = text.partition(": ")
        if not (mismatch and name == "litert"):
            found.append(_of_failure(name, said, facts))
    found += [*mismatch, *_of_several(facts)]
    if not facts.proof.backends:
        found.append(
            problem(
                AREA, "no runtime works: this node's CPU can run no model", "each is named above with its reason",
                f"{facts.pip} install 'overlaid[onnx,litert]'",
            )
        )  # fmt: skip
    return found


def _of_failure(name: str, said: str, facts: Facts) -> Finding:
    cause, cure = cause_and_cure(said)
    known = BACKENDS.get(name)
    mend = _with_pip(cure, facts.pip)
    if cause == NOT_INSTALLED:
        formats = f"models of the format {', '.join(known.formats)} do not run here" if known else ""
        return ok(AREA, f"{name} is not installed", f"{formats}; {mend}")
    again = f"{facts.pip} install --force-reinstall 'overlaid[{known.extra if known else 'onnx,litert'}]'"
    if known is not None and known.optional:
        return warning(AREA, f"{name} does not work: {cause}", "nothing else needs it", mend or again)
    why = "it is installed, and does not load or run a tiny model in a process of its own"
    return problem(AREA, f"{name} does not work: {cause}", why, mend if "install" in cure else again)


def _tflite_beside_numpy(facts: Facts) -> Iterator[Finding]:
    """tflite-runtime 2.14, the last one, is built for numpy 1: beside numpy 2 it imports and then fails."""
    tflite, numpy = facts.versions.get("tflite-runtime"), facts.versions.get("numpy", "")
    works = any(backend.name == "litert" for backend in facts.proof.backends)
    if tflite is None or works or not (re.match(r"\d+", numpy) and int(numpy.partition(".")[0]) >= 2):
        return
    yield problem(
        AREA, f"tflite-runtime {tflite} does not work with numpy {numpy}", "it is built for numpy below 2",
        f"{facts.pip} install 'numpy<2', or, where it has wheels: {facts.pip} install ai-edge-litert",
    )  # fmt: skip


def _of_several(facts: Facts) -> Iterator[Finding]:
    kinds = sorted(name for name in facts.versions if name.startswith(ONNX))
    if len(kinds) > 1:
        remove = f"{facts.pip} uninstall --yes {' '.join(kinds)} && {facts.pip} install {kinds[-1]}"
        yield warning(
            AREA, f"{' and '.join(kinds)} are installed",
            "they overwrite each other's files; which one works is chance", remove,
        )  # fmt: skip


def _with_pip(cure: str, pip: str) -> str:
    return re.sub(r"(?<![-\w])pip install", f"{pip} install", cure)

"""New exports of a model on a node that has the version before: what really comes over the wire."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tests.system.brokers import start_mosquitto
from tests.system.stage import ROOT, Node, Stage, stage, wait_until
from tests.unit.fleet import reexport

DIGITS = ROOT / "models" / "digits"
ONNX = ("digits-fp32.onnx", "digits-int8.onnx")


def test_another_export_costs_its_names(tmp_path: Path) -> None:
    with stage(tmp_path, start_mosquitto) as it:
        node = it.node("cam-7")
        it.serve()
        node.start()
        first = deployed(it, node, DIGITS)
        assert first["new"] is None
        assert first["received"] > 0.9 * first["size"]
        renamed = deployed(it, node, version(tmp_path, "1.1.0", "renamed"))
        assert renamed["new"] < 0.05 * renamed["size"]  # of the int8 variant's 119 KB a tenth is names
        assert renamed["received"] < renamed["new"] + renamed["manifest"] + 5000
        reordered = deployed(it, node, version(tmp_path, "1.2.0", "reordered"))
        assert reordered["received"] < 0.05 * reordered["size"]
        texts = [text for kind, text in events(node) if kind == "fetched"]
        assert [text.split(":")[0] for text in texts] == ["1.0.0", "1.1.0", "1.2.0"]
        assert re.fullmatch(r"1\.1\.0: fetched \d+ of \d+ bytes, the rest was on this node", texts[1])


def version(folder: Path, number: str, change: str) -> Path:
    """The committed model exported anew: it answers its golden vectors as before."""
    out = folder / f"model-{number}"
    shutil.copytree(DIGITS, out)
    toml = out / "model.toml"
    toml.write_text(toml.read_text().replace('version = "1.0.0"', f'version = "{number}"'))
    for name in ONNX:
        data = (DIGITS / name).read_bytes()
        changed = reexport.renamed_onnx(data) if change == "renamed" else reexport.reordered_onnx(data)
        (out / name).write_bytes(changed)
    return out


def deployed(it: Stage, node: Node, model: Path) -> dict[str, int]:
    """Pack, publish, deploy. Bytes: of all files; ``new`` and ``manifest`` as publish tells; ``received`` by it."""
    out = it.folder / f"package-{model.name}"
    number = json.loads(it.fleet("pack", str(model), "-o", str(out), "--json").stdout)["version"]
    published = json.loads(it.fleet("publish", str(out), "--json").stdout)
    before = received(node)
    budget = ("--latency-p99", "100ms", "--rate", "1/s")
    it.fleet("deploy", f"digits@{number}", "--node", node.name, *budget, "--wait", "--timeout", "100")
    wait_until(
        f"digits {number}", lambda: (node.model("digits") or {}).get("running_version") == number, 60.0
    )
    delta = published["delta"] or {"new_bytes": None, "manifest_bytes": None}
    return {
        "size": published["size"],
        "new": delta["new_bytes"],
        "manifest": delta["manifest_bytes"],
        "received": received(node) - before,
    }


def received(node: Node) -> int:
    status = node.status()
    assert status is not None
    return int(status["delivery"]["received"])


def events(node: Node) -> list[tuple[str, str]]:
    rows = json.loads(node.run("telemetry", "--json").stdout)["events"]
    return sorted((row["kind"], row["text"]) for row in rows)

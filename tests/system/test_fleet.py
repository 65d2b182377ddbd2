"""The operator's side against a real broker; the node is played by the test, through MqttLink."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BlockMissing
from agent.fleet.home import Home
from agent.fleet.keys import load_key
from agent.fleet.operator import Operator
from agent.fleet.repository import Repository
from agent.link.blocks import BlockFetcher
from agent.link.client import Message, MqttSettings, Will
from agent.link.messages import (
    Capabilities,
    Command,
    Desired,
    Reported,
    ReportedModel,
    Result,
    Status,
    open_signed,
)
from agent.link.topics import Target
from agent.package.blocks import file_entry
from agent.package.directory import BLOCKS_NAME, MANIFEST_NAME
from agent.package.manifest import SCHEMA, Manifest
from agent.trust import Keyring, keyring
from agent.types import DesiredState, Phase, State
from tests.system.brokers import start_mosquitto
from tests.system.links import QUICK, Recorded, until
from tests.system.stage import OVERLAID, Stage, stage, stop_process, wait_until

CAM = Target("demo", "cam-7")
GROUP = Target("demo", "all", group=True)
BUDGET = ("--latency-p99", "20ms", "--rate", "10/s")
DAY = 86_400.0


class Fleet:
    """A stage with one published package that no runtime needs to load."""

    def __init__(self, it: Stage) -> None:
        self.stage, self.broker = it, it.broker
        self.home = Home(it.home)
        self.log = it.folder / "serve.log"
        self.keys: Keyring = keyring([load_key(self.home, "commands").public])
        self.weights = bytes(i * 7 % 251 for i in range(700_000))
        self.digest = self.publish("1.0.0")

    def publish(self, version: str) -> str:
        """Publish a package; its manifest's digest."""
        out = self.stage.folder / f"digits-{version}"
        (out / BLOCKS_NAME).mkdir(parents=True)
        files = {"model.onnx": self.weights, "x.bin": b"\0" * 4, "y.bin": b"\0" * 4}
        entries = {}
        for name, data in files.items():
            entries[name], blocks = file_entry(data, [])
            for block in blocks:
                sha = hashlib.sha256(block).hexdigest()
                (out / BLOCKS_NAME / sha).write_bytes(block)
        tensor = [{"name": "t", "dtype": "FP32", "shape": [1]}]
        golden = {"outputs": {"t": "y.bin"}, "atol": 0.0, "rtol": 0.0}
        manifest = {
            "schema": SCHEMA, "name": "digits", "version": version, "licence": "none", "inputs": tensor,
            "outputs": tensor, "golden": {"count": 1, "inputs": {"t": "x.bin"}},
            "variants": [{"name": "fp32", "format": "onnx", "precision": "fp32", "devices": ["cpu"],
                          "file": "model.onnx", "golden": golden}],
            "files": {name: entry.model_dump() for name, entry in entries.items()},
        }  # fmt: skip
        (out / MANIFEST_NAME).write_bytes(Manifest.model_validate_json(json.dumps(manifest)).encode())
        return str(self.run("publish", str(out))["digest"])

    def run(self, *args: str) -> Any:
        """A command that succeeds and prints JSON."""
        return json.loads(self.stage.fleet(*args, "--json").stdout)

    def fails(self, *args: str, code: int = 1) -> str:
        """A command that ends with this code; what it says."""
        done = self.stage.fleet(*args, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    def refuses(self, *args: str) -> str:
        """A command that is wrong usage; what it says."""
        return self.fails(*args, code=2)

    def deploy(self, *args: str) -> tuple[str, ...]:
        return ("deploy", "digits@1.0.0", *BUDGET, *args)

    def serve(self) -> None:
        """Start ``fleet serve`` and wait until it is connected."""
        before = self.served("connected to")
        self.stage.serve()
        wait_until("fleet serve", lambda: self.served("connected to") > before)

    def served(self, text: str) -> int:
        """How many lines of its log have this text."""
        return self.log.read_text().count(text) if self.log.exists() else 0

    def desired(self, message: Message, target: Target) -> DesiredState:
        """What a node makes of a desired state; raises when it would refuse it."""
        _, desired = open_signed(Desired, message.payload, self.keys, target, time.time())
        return desired.state()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with stage(tmp_path, start_mosquitto) as it:
        yield Fleet(it)


class FakeNode(Recorded):
    """A node that believes every desired state and does what the test says."""

    def __init__(self, fleet: Fleet, name: str = "cam-7") -> None:
        self.target = Target("demo", name)
        dead = Status(online=False, boot_id="b1").encode()
        super().__init__(fleet.broker, f"node-{name}", clean=False, will=Will(self.target.status, dead))
        self.fleet = fleet
        for topic in (self.target.desired, GROUP.desired, self.target.topic("command", "+", "+")):
            self.subscribe(topic, 1)

    async def say(self, topic: str, message: Any) -> None:
        await self.publish(topic, message.encode(), 1, retain="/result/" not in topic)

    async def birth(self) -> None:
        board = {"name": "local", "devices": [{"id": "cpu", "kind": "cpu"}]}
        await self.say(self.target.status, Status(online=True, boot_id="b1"))
        await self.say(
            self.target.capabilities, Capabilities(agent_version="0.1.0", board=board, groups=["all"])
        )
        await self.report(0, None)

    async def report(self, revision: int, state: State | None, **more: Any) -> None:
        fields = {"name": "digits", "version": "1.0.0", "state": state, **more}
        models = [ReportedModel.model_validate(fields)] if state else []
        applied = revision if state is None or state.final else 0
        await self.say(
            self.target.reported,
            Reported(revision_seen=revision, revision_applied=applied, time=time.time(), models=models),
        )

    def newest(self, target: Target) -> DesiredState | None:
        found = [m for m in self.messages if m.topic == target.desired]
        return self.fleet.desired(found[-1], target) if found else None

    async def carry_out(self, state: State, why: str) -> None:
        """Wait for a desired state and report it in progress, then in this state."""
        await until(lambda: self.newest(self.target) is not None, 30)
        wanted = self.newest(self.target)
        assert wanted is not None
        await self.report(wanted.revision, State.IN_PROGRESS, phase=Phase.DOWNLOADING, progress=0.5)
        running = "1.0.0" if state is State.SUCCEEDED else "0.9.0"
        place = {"device": "cpu", "variant": "fp32", "backend": "onnxruntime", "running_version": running}
        await self.report(wanted.revision, state, why=why, **place)

    async def answer(self, state: State, output: dict[str, Any], why: str = "") -> Command:
        """Wait for a command, check it as a node does, and send its result."""
        prefix = self.target.topic("command")
        await until(lambda: any(m.topic.startswith(prefix) for m in self.messages), 30)
        message = [m for m in self.messages if m.topic.startswith(prefix)][-1]
        _, command = open_signed(Command, message.payload, self.fleet.keys, self.target, time.time())
        assert message.topic == self.target.command(command.op, command.id)
        result = Result(id=command.id, op=command.op, state=state, why=why, output=output)
        await self.say(self.target.result(command.op, command.id), result)
        return command


async def overlaid(fleet: Fleet, *args: str) -> tuple[int, str, str]:
    """Run a fleet command beside the test's own node."""
    process = await asyncio.create_subprocess_exec(
        str(OVERLAID), "fleet", *args, "--home", str(fleet.home.path),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


def interruptible() -> None:
    """For a child that gets SIGINT: in the background of a shell it would inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_what_deploy_rollback_and_the_others_publish_is_what_nodes_accept(fleet: Fleet) -> None:
    async def read(target: Target) -> DesiredState:
        async with Recorded(fleet.broker, "reader") as reader:
            reader.subscribe(target.desired, 1)
            await until(lambda: reader.messages)
            assert reader.messages[0].retain
            return fleet.desired(reader.messages[0], target)

    def held(target: Target) -> DesiredState:
        return asyncio.run(read(target))

    first = fleet.run(*fleet.deploy("--node", "cam-7", "--group", "all", "--power", "500mW"))
    assert [(row["target"], row["revision"]) for row in first["published"]] == [
        (str(CAM), 1),
        (str(GROUP), 2),
    ]
    deployed = held(CAM)
    (model,) = deployed.models
    assert (model.name, model.version, model.digest) == ("digits", "1.0.0", fleet.digest)
    assert (model.budget.latency_p99_ms, model.budget.rate_hz, model.budget.power_w) == (20.0, 10.0, 0.5)
    assert held(GROUP).models == deployed.models

    fleet.run("power-cap", "3W", "--node", "cam-7")
    assert held(CAM).power_cap_w == 3.0
    fleet.run("undeploy", "digits", "--node", "cam-7")
    assert (held(CAM).models, held(CAM).power_cap_w) == ((), 3.0)
    fleet.run("rollback", "--node", "cam-7")
    back = held(CAM)
    assert (back.models, back.power_cap_w) == (deployed.models, 3.0)
    fleet.run("power-cap", "none", "--node", "cam-7")
    assert held(CAM).power_cap_w is None
    assert [held(CAM).revision, held(GROUP).revision] == [6, 2]


def test_wrong_use_is_refused_before_anything_is_published(fleet: Fleet) -> None:
    fleet.run(*fleet.deploy("--node", "cam-8"))
    assert "published: digits@1.0.0" in fleet.fails("deploy", "digits@9", *BUDGET, "--node", "cam-7")
    assert "no version of faces" in fleet.fails("deploy", "faces@1", *BUDGET, "--node", "cam-7")
    assert "MODEL@VERSION" in fleet.refuses("deploy", "digits", *BUDGET, "--node", "cam-7")
    assert "--node NODE or --group" in fleet.refuses(*fleet.deploy())
    assert "a-z, 0-9" in fleet.refuses(*fleet.deploy("--node", "Cam_7"))
    assert "reserved" in fleet.refuses(*fleet.deploy("--node", "blocks"))
    where = f"what runs where: overlaid fleet status --home {fleet.home.path}"
    text = fleet.refuses("undeploy", "digits", "--node", "cam-8", "--node", "cam-7")
    assert "demo/cam-7: no model" in text and "deployed: none" in text and where in text
    text = fleet.refuses("rollback", "--node", "cam-7")
    assert "demo/cam-7: nothing to roll back to" in text and where in text
    assert "never heard" in fleet.refuses("status", "cam-7")
    assert "needs --model" in fleet.refuses("command", "restart", "--node", "cam-7")
    assert "no node of group" in fleet.refuses(*fleet.deploy("--group", "all", "--wait"))
    with Operator(fleet.home.database) as operator:
        assert [str(target) for target in operator.targets()] == ["demo/cam-8"]
        assert len(list(operator.history(Target("demo", "cam-8")))) == 1


def test_an_unreachable_broker_is_named_and_nothing_is_stored(fleet: Fleet) -> None:
    fleet.broker.stop()
    where = f"{fleet.broker.host}:{fleet.broker.port}"
    for args in (fleet.deploy("--node", "cam-7"), ("command", "logs", "--node", "cam-7"), ("watch",)):
        text = fleet.fails(*args)
        assert "LinkError" in text and where in text and "check" in text
    with Operator(fleet.home.database) as operator:
        assert operator.targets() == []


def test_serve_answers_a_fetcher_with_the_manifest_and_its_blocks(fleet: Fleet) -> None:
    fleet.serve()
    got: dict[str, bytes] = {}

    async def fetch() -> None:
        settings = MqttSettings(fleet.broker.host, fleet.broker.port, "fetcher")
        fetcher = BlockFetcher(settings, "demo", backoff=QUICK)
        await asyncio.wait_for(fetcher.fetch(fleet.digest, {fleet.digest: 0}, got.__setitem__), 20)
        assert got[fleet.digest] == Repository(fleet.home.packages).manifest(fleet.digest)
        found = file_entry(fleet.weights, [])[0].blocks
        wanted = {block.sha256: block.size for block in found}
        await asyncio.wait_for(fetcher.fetch(fleet.digest, wanted, got.__setitem__), 20)
        assert b"".join(got[block.sha256] for block in found) == fleet.weights
        assert len(found) > 2
        with pytest.raises(BlockMissing):
            await asyncio.wait_for(fetcher.fetch(fleet.digest, {"ee" * 32: 5}, got.__setitem__), 20)

    asyncio.run(fetch())
    wait_until("the summary", lambda: fleet.served("of package " + fleet.digest[:12]))


def test_only_one_serves_a_home_and_it_stops_when_told(fleet: Fleet) -> None:
    fleet.serve()
    assert "runs on" in fleet.refuses("serve")
    server = fleet.stage.server
    assert server is not None
    server.send_signal(signal.SIGINT)
    assert server.wait(15) == 0
    fleet.serve()
    assert fleet.stage.server is not None and stop_process(fleet.stage.server) == 0


def test_serve_gives_a_broker_back_what_it_lost(fleet: Fleet) -> None:
    fleet.run(*fleet.deploy("--node", "cam-7"))
    fleet.serve()
    fleet.broker.kill()  # without saving: its retained messages are gone
    fleet.broker.start()

    async def check() -> None:
        async with Recorded(fleet.broker, "reader") as reader:
            reader.subscribe(CAM.desired, 1)
            await until(lambda: reader.messages, 30)
            assert fleet.desired(reader.messages[0], CAM).revision == 1
            # It says so once the broker has acknowledged, which may be after the reader has got it.
            await until(lambda: fleet.served("published again"), 30)

    asyncio.run(check())
    assert fleet.served("published again") == 1


def test_serve_renews_what_would_expire(fleet: Fleet) -> None:
    then = time.time() - 25 * DAY
    with Operator(fleet.home.database, clock=lambda: then) as operator:
        old = operator.revise(CAM, lambda content: content)
    fleet.serve()

    async def check() -> None:
        async with Recorded(fleet.broker, "reader") as reader:
            reader.subscribe(CAM.desired, 1)
            await until(lambda: reader.messages, 30)
            renewed = fleet.desired(reader.messages[-1], CAM)
            assert renewed.revision == old.revision + 1
            assert renewed.expires > time.time() + 29 * DAY

    asyncio.run(check())


@pytest.mark.parametrize(
    ("state", "why", "code"),
    [(State.SUCCEEDED, "least energy", 0), (State.FAILED, "GoldenMismatch: far off; 0.9.0 serves on", 1)],
)
def test_deploy_waits_for_the_end_and_tells_it(fleet: Fleet, state: State, why: str, code: int) -> None:
    async def play() -> tuple[int, str, str]:
        async with FakeNode(fleet) as node:
            await node.birth()
            answer = asyncio.ensure_future(overlaid(fleet, *fleet.deploy("--node", "cam-7", "--wait")))
            await node.carry_out(state, why.partition(";")[0])
            return await answer

    returned, out, err = asyncio.run(play())
    assert returned == code, err
    assert f"cam-7: digits 1.0.0 {state.value}" in out and why in out
    assert "fp32 on cpu (onnxruntime)" in out


def test_waiting_for_a_group_and_a_node_that_stays_silent(fleet: Fleet) -> None:
    async def play() -> tuple[int, str, str]:
        async with FakeNode(fleet) as node:
            await node.birth()
            return await overlaid(
                fleet, *fleet.deploy("--group", "all", "--wait", "--timeout", "1", "--json")
            )

    code, out, _ = asyncio.run(play())
    (ended,) = json.loads(out)["nodes"]
    assert code == 1
    assert (ended["node"], ended["state"]) == ("cam-7", "TIMED_OUT")
    assert "has not seen the revision" in ended["why"]


def test_ctrl_c_says_what_goes_on(fleet: Fleet) -> None:
    async def interrupt(*args: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            str(OVERLAID), "fleet", *args, "--home", str(fleet.home.path),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=interruptible,
        )  # fmt: skip
        try:
            async with Recorded(fleet.broker, "reader") as reader:
                reader.subscribe(CAM.topic("command", "+", "+") if args[0] == "command" else CAM.desired, 1)
                await until(lambda: reader.messages, 30)
            process.send_signal(signal.SIGINT)
            _, err = await asyncio.wait_for(process.communicate(), 20)
        finally:
            if process.returncode is None:
                process.kill()
        return process.returncode, err.decode()

    home = f"--home {fleet.home.path}\n"
    code, err = asyncio.run(interrupt(*fleet.deploy("--node", "cam-7", "--wait")))
    assert code == 130
    said = "interrupted; what was published stays and the nodes go on: overlaid fleet status "
    assert err == said + home
    code, err = asyncio.run(interrupt("command", "logs", "--node", "cam-7"))
    assert code == 130
    assert err.startswith("interrupted; ") and err.endswith("overlaid fleet watch " + home)


def test_commands_are_signed_in_sequence_and_their_results_printed_and_kept(fleet: Fleet) -> None:
    rows = [
        {"time": 1.0, "level": "INFO", "room": "boot", "text": "started\x1b[31m"},
        "rubbish",
        {"time": []},
    ]

    async def play() -> list[tuple[int, str, str]]:
        async with FakeNode(fleet) as node:
            await node.birth()
            runs = []
            for op, state, output, more in (
                (
                    "logs",
                    State.SUCCEEDED,
                    {"rows": rows},
                    ["--lines", "5", "--since", "1h", "--bytes", "2048"],
                ),
                ("restart", State.FAILED, {}, ["--model", "digits"]),
            ):
                node.messages.clear()
                run = asyncio.ensure_future(overlaid(fleet, "command", op, "--node", "cam-7", *more))
                commands.append(await node.answer(state, output, "" if output else "no such model"))
                runs.append(await run)
            return runs

    commands: list[Command] = []
    logs, restart = asyncio.run(play())
    assert logs[0] == 0 and "boot started?[31m" in logs[1]
    assert restart[0] == 1 and "restart FAILED: no such model" in restart[1]
    assert commands[0].sequence < commands[1].sequence
    assert (commands[0].lines, commands[0].since_s, commands[0].max_bytes) == (5, 3600, 2048)
    assert commands[1].model == "digits"
    assert commands[0].expires - commands[0].issued == 600
    with Operator(fleet.home.database) as operator:
        assert [result.op for _, result in operator.results("cam-7")] == ["restart", "logs"]


def test_a_command_without_an_answer_says_what_the_node_is(fleet: Fleet) -> None:
    text = fleet.fails("command", "logs", "--node", "cam-7", "--timeout", "0.2")
    assert "no result of logs" in text and "unknown to the broker" in text


def test_status_shows_nodes_live_and_without_a_broker_as_recorded(fleet: Fleet) -> None:
    fleet.run(*fleet.deploy("--node", "cam-7"))
    fleet.serve()

    async def live() -> None:
        async with FakeNode(fleet) as node:
            await node.birth()
            await node.report(1, State.SUCCEEDED, device="cpu", variant="fp32", p99_ms=1.5)
            await asyncio.to_thread(wait_until, "a record", lambda: fleet.served("digits 1.0.0: SUCCEEDED"))
            code, out, _ = await overlaid(fleet, "status", "cam-7")
            assert code == 0
            for text in ("cam-7", "yes", "SUCCEEDED", "fp32 on cpu", "1.50", "1/1", "groups: all"):
                assert text in out
            await node.report(1, State.FAILED, why="SoakFailed: slow")
            await asyncio.to_thread(wait_until, "a record", lambda: fleet.served("SoakFailed"))

    asyncio.run(live())
    assert fleet.stage.server is not None
    stop_process(fleet.stage.server)
    fleet.broker.stop()
    done = fleet.stage.fleet("status", "--json", check=False)
    shown = json.loads(done.stdout)
    assert done.returncode == 1
    assert shown["source"] == "operator.db" and str(fleet.broker.port) in shown["problem"]
    (node,) = shown["nodes"]
    assert node["node"] == "cam-7" and node["age_s"] >= 0 and node["wanted_revision"] == 1
    assert node["reported"]["models"][0]["why"] == "SoakFailed: slow"


def test_watch_prints_a_line_for_each_change(fleet: Fleet) -> None:
    async def play(lines: list[dict[str, Any]]) -> None:
        process = await asyncio.create_subprocess_exec(
            str(OVERLAID), "fleet", "watch", "cam-7", "--json", "--home", str(fleet.home.path),
            stdout=asyncio.subprocess.PIPE, preexec_fn=interruptible,
        )  # fmt: skip
        assert process.stdout is not None
        try:
            async with FakeNode(fleet) as node, FakeNode(fleet, "cam-8") as other:
                await other.birth()
                await node.birth()
                while len(lines) < 2:
                    lines.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 20)))
                await node.report(1, State.QUEUED)
                await node.report(1, State.SUCCEEDED)
                while lines[-1]["event"] != "applied":
                    lines.append(json.loads(await asyncio.wait_for(process.stdout.readline(), 20)))
            process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(process.wait(), 20) == 130
        finally:
            if process.returncode is None:
                process.kill()

    lines: list[dict[str, Any]] = []
    asyncio.run(play(lines))
    assert {line["node"] for line in lines} == {"cam-7"}
    assert [line["event"] for line in lines] == ["status", "capabilities", "model", "model", "applied"]
    assert [line["model"]["state"] for line in lines if line["event"] == "model"] == ["QUEUED", "SUCCEEDED"]


def test_serve_survives_rubbish_and_a_broker_that_is_not_there_yet(fleet: Fleet) -> None:
    fleet.broker.stop()
    fleet.stage.serve()
    wait_until("its complaint", lambda: fleet.served(str(fleet.broker.port)) > 1)
    fleet.broker.start()
    wait_until("a connection", lambda: fleet.served("connected to"))

    async def rubbish() -> None:
        async with Recorded(fleet.broker, "vandal") as vandal:
            for topic in ("status", "reported", "capabilities", "desired", "telemetry/x", "result/logs/c1"):
                await vandal.publish(CAM.topic(topic), b"\xff\x00rubbish", 1)
            await vandal.publish(f"overlaid/v1/demo/blocks/{fleet.digest}/request", b"[]", 1)
            await vandal.publish("overlaid/v1/demo/UPPER/status", b"{}", 1)
        async with FakeNode(fleet) as node:
            await node.birth()
            await asyncio.to_thread(wait_until, "the node", lambda: fleet.served("cam-7: online"))

    asyncio.run(rubbish())
    assert fleet.served("overlaid/v1/demo/cam-7/status: status: ")
    assert fleet.served("somebody else's desired state")
    assert fleet.stage.server is not None and fleet.stage.server.poll() is None


def test_help_of_every_command_has_an_example() -> None:
    for name in ("serve", "deploy", "undeploy", "rollback", "power-cap", "status", "watch", "command"):
        done = subprocess.run(
            [str(OVERLAID), "fleet", name, "--help"], capture_output=True, text=True, check=True
        )
        assert f"example: overlaid fleet {name}" in " ".join(done.stdout.split())

"""What the front door answers itself, with real workers behind it."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.system.test_serving import Node, ask, connected, infer, scenario


def whole(
    connection: http.client.HTTPConnection, method: str, path: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request(method, path)
    answer = connection.getresponse()
    return answer, answer.read()


def test_statistics_of_one_model_and_of_all(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        with connected(node) as connection:
            for _ in range(3):
                assert infer(connection, "double")[0] == 200
            status, one = ask(connection, "GET", "/v2/models/double/stats")
            assert status == 200 and one["model_stats"][0]["inference_stats"]["success"]["count"] == 3
            status, every = ask(connection, "GET", "/v2/models/stats")
            assert status == 200
            assert [entry["name"] for entry in every["model_stats"]] == ["double", "triple"]
            assert every["model_stats"][0] == one["model_stats"][0]
            status, config = ask(connection, "GET", "/v2/models/triple/config")
            assert (status, config["name"], config["input"][0]["data_type"]) == (200, "triple", "TYPE_FP32")

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)


def test_the_repository_shows_every_model_and_whether_it_answers(tmp_path: Path) -> None:
    def client(node: Node) -> Any:
        with connected(node) as connection:
            everything = ask(connection, "POST", "/v2/repository/index")
            ready = ask(connection, "POST", "/v2/repository/index", {"ready": True})
            assert everything[0] == ready[0] == 200
            return {entry.pop("name"): entry for entry in everything[1]}, [e["name"] for e in ready[1]]

    async def steps(node: Node) -> None:
        node.pool.expect(["later"])
        models, ready = await asyncio.to_thread(client, node)
        assert models["double"] == {"version": "1.0", "state": "READY", "reason": ""}
        assert models["later"]["state"] == "LOADING" and ready == ["double", "triple"]
        (tmp_path / "double-1.0.onnx").write_bytes(b"corrupt")
        os.kill(node.pid("double"), signal.SIGKILL)
        await node.until(lambda: node.pool.worker("double") is None)
        models, ready = await asyncio.to_thread(client, node)
        assert models["double"]["state"] == "UNAVAILABLE" and "restarted" in models["double"]["reason"]
        assert ready == ["triple"]

    scenario(tmp_path, steps)


def test_head_gives_the_head_of_get_and_options_what_is_allowed(tmp_path: Path) -> None:
    def client(node: Node, path: str) -> None:
        with connected(node) as connection:
            get, body = whole(connection, "GET", path)
            head, none = whole(connection, "HEAD", path)
            assert (get.status, head.status, none) == (200, 200, b"") and body
            assert head.getheader("Content-Type") == get.getheader("Content-Type")
            if path not in ("/metrics", "/v2/models/stats"):  # those change
                assert head.getheader("Content-Length") == str(len(body))
            options, none = whole(connection, "OPTIONS", path)
            assert (options.status, options.getheader("Allow"), none) == (200, "GET, HEAD, OPTIONS", b"")
            assert infer(connection, "double")[0] == 200  # the connection is in order

    async def steps(node: Node) -> None:
        for path in ("/v2", "/metrics", "/", "/v2/models/double", "/v2/models/stats"):
            await asyncio.to_thread(client, node, path)

    scenario(tmp_path, steps)


def test_the_page_may_load_nothing_from_elsewhere(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        with connected(node) as connection:
            answer, page = whole(connection, "GET", "/")
            assert answer.getheader("Content-Type") == "text/html; charset=utf-8"
            policy = answer.getheader("Content-Security-Policy") or ""
            assert "default-src 'none'" in policy and "connect-src 'self'" in policy
            assert (
                b"http://" not in page.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in page
            )

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)


def test_requests_failures_and_latency_are_counted(tmp_path: Path) -> None:
    def metrics(node: Node) -> dict[tuple[str, str], float]:
        with connected(node) as connection:
            answer, text = whole(connection, "GET", "/metrics")
        assert answer.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
        return {
            (sample.name, sample.labels.get("kind", "")): sample.value
            for family in text_string_to_metric_families(text.decode())
            for sample in family.samples
            if sample.labels.get("model") == "double"
        }

    def use(node: Node) -> None:
        with connected(node) as connection:
            for _ in range(5):
                assert infer(connection, "double")[0] == 200
            assert ask(connection, "POST", "/v2/models/double/infer", b"{")[0] == 400

            assert ask(connection, "POST", "/v2/models/double/infer", {"inputs": []})[0] == 400

    async def steps(node: Node) -> None:
        await asyncio.to_thread(use, node)

        def counted() -> bool:
            status = node.pool.status("double")
            return status is not None and status.requests == 5 and status.failures.get("request") == 2

        await node.until(counted)
        found = await asyncio.to_thread(metrics, node)
        assert found["overlaid_model_requests_total", ""] == 5
        assert found["overlaid_model_latency_seconds_count", ""] == 5
        assert 0 < found["overlaid_model_latency_seconds_sum", ""] < 5
        assert found["overlaid_model_failures_total", "request"] == 2
        assert found["overlaid_model_failures_total", "run"] == 0
        assert found["overlaid_model_ready", ""] == 1 and found["overlaid_model_queue_length", ""] == 0
        assert found["overlaid_model_memory_bytes", ""] > 1e6

    scenario(tmp_path, steps)

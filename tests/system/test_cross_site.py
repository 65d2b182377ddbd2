"""A web page that somebody on this machine visits can neither drive models nor read what the node says."""

from __future__ import annotations

import asyncio
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.system.browser import Browser
from tests.system.test_serving import BODY, Node, UnixConnection, ask, connected, scenario

# What a page can send to any address without asking first: a body without a type.
ATTACK = """
<script>
const body = new Blob([JSON.stringify(%s)]);
const options = {method: "POST", mode: "no-cors", body};
const sent = fetch("http://127.0.0.1:%d/v2/models/double/infer", options);
sent.catch(() => null).then(() => { document.title = "sent"; });
</script>"""
PATHS = ("/", "/status.json", "/metrics", "/v2", "/v2/models/double", "/v2/models/double/stats")


@contextmanager
def page(text: str) -> Iterator[str]:
    """The address of a page that shows ``text``."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None: ...

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://localhost:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def runs(node: Node) -> int:
    with connected(node) as connection:
        return int(ask(connection, "GET", "/v2/models/double/stats")[1]["model_stats"][0]["inference_count"])


def test_a_page_from_elsewhere_does_not_run_a_model(tmp_path: Path) -> None:
    def visit(node: Node) -> None:
        with (
            page(ATTACK % (json.dumps(BODY), node.port)) as address,
            Browser(tmp_path / "profile") as browser,
        ):
            browser.open(address)
            browser.until("the request", lambda: browser.evaluate("document.title") == "sent")
        assert runs(node) == 0

    async def steps(node: Node) -> None:
        await asyncio.to_thread(visit, node)

    scenario(tmp_path, steps)


def test_a_name_that_was_pointed_here_learns_nothing(tmp_path: Path) -> None:
    def client(node: Node, path: str) -> None:
        with connected(node) as connection:
            status, answer = ask(connection, "GET", path, Host=f"evil.example:{node.port}")
            assert status == 403 and "evil.example" in answer["error"] and answer.keys() == {"error"}
            for own in ("localhost", f"127.0.0.1:{node.port}"):
                connection.request("GET", path, headers={"Host": own})
                answered = connection.getresponse()
                assert answered.read() and answered.status == 200

    async def steps(node: Node) -> None:
        for path in PATHS:
            await asyncio.to_thread(client, node, path)

    scenario(tmp_path, steps)


def test_a_connection_that_is_with_a_worker_is_no_way_around(tmp_path: Path) -> None:
    def client(node: Node) -> None:
        with connected(node) as connection:
            path = "/v2/models/double/infer"
            assert ask(connection, "POST", path, BODY)[0] == 200
            for bad in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
                assert ask(connection, "POST", path, BODY, **bad)[0] == 403
            assert ask(connection, "POST", path, BODY, Origin=f"http://127.0.0.1:{node.port}")[0] == 200
        connection = UnixConnection(tmp_path / "run/http.sock")  # as no browser can
        assert ask(connection, "POST", path, BODY, Host="node")[0] == 200
        connection.close()

    async def steps(node: Node) -> None:
        await asyncio.to_thread(client, node)

    scenario(tmp_path, steps)

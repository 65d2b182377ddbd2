"""The sample reverse proxies (systemd/nginx, systemd/caddy), run as they are but for paths and ports."""

from __future__ import annotations

import asyncio
import http.client
import os
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton

from tests.system.brokers import free_port
from tests.system.certificates import Authority, Pair
from tests.system.stage import ROOT, stop_process, wait_until
from tests.system.test_serving import BODY, Node, ask, scenario

SAMPLES = {"nginx": "systemd/nginx/overlaid.conf", "caddy": "systemd/caddy/Caddyfile"}


def adapted(name: str, folder: Path, upstream: int, port: int) -> Path:
    """The sample with this test's certificates and ports."""
    text = (ROOT / SAMPLES[name]).read_text().replace("/etc/overlaid/pki", str(folder))
    text = text.replace("127.0.0.1:8000", f"127.0.0.1:{upstream}").replace("8443", str(port))
    text = text.replace("cam-7.example", "localhost")
    if name == "nginx":
        # Its main file includes conf.d inside of http.
        paths = [
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ]
        text = f"pid {folder}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n" + "\n".join(
            [*paths, text, "}"]
        )
    else:
        text = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n" + text
    file = folder / f"{name}.conf"
    file.write_text(text)
    return file


def command(name: str, config: Path) -> list[str]:
    program = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    assert program is not None, f"apt-get install {name}"
    if name == "nginx":
        return [program, "-c", str(config), "-e", "stderr", "-g", "daemon off; master_process off;"]
    return [program, "run", "--config", str(config), "--adapter", "caddyfile"]


def proxied(name: str, node: Node, folder: Path, steps: Callable[[int, Authority, Pair], None]) -> None:
    authority = Authority(folder)
    authority.issue("https", host="localhost")
    port = free_port()
    config = adapted(name, folder, node.port, port)
    homes = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"), str(folder))
    with (folder / "proxy.log").open("wb") as log:
        process = subprocess.Popen(command(name, config), stdout=log, stderr=log, env={**os.environ, **homes})
        try:
            context = trusting(authority, authority.issue("client"))

            def answers() -> bool:
                assert process.poll() is None, (folder / "proxy.log").read_text()
                connection = connect(port, context)
                try:
                    return ask(connection, "GET", "/v2/health/live")[0] == 200
                except ConnectionError:
                    return False
                finally:
                    connection.close()

            wait_until(name, answers)
            steps(port, authority, Pair(folder / "client.pem", folder / "client.key"))
        finally:
            stop_process(process)


def trusting(authority: Authority, own: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca))
    if own is not None:
        context.load_cert_chain(own.cert, own.key)
    return context


def connect(port: int, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", port, context=context, timeout=20)


def refused(connection: http.client.HTTPSConnection) -> bool:
    """By TLS, or with an answer."""
    try:
        connection.request("GET", "/v2/models/double")
        return connection.getresponse().status == 400
    except (ssl.SSLError, ConnectionError):
        return True
    finally:
        connection.close()


@pytest.mark.parametrize("name", SAMPLES)
def test_other_machines_reach_models_with_a_certificate_and_nothing_else(tmp_path: Path, name: str) -> None:
    def steps(port: int, authority: Authority, own: Pair) -> None:
        connection = connect(port, trusting(authority, own))
        for _ in range(3):
            status, answer = ask(connection, "POST", "/v2/models/double/infer", BODY)
            assert (status, answer["outputs"][0]["data"]) == (200, [2, 4, 6, 8])
        assert ask(connection, "POST", "/v2/models/nothing/infer", BODY)[0] == 404
        connection.close()
        for path in (
            "/",
            "/metrics",
            "/status.json",
            "/v2/systemsharedmemory/status",
            "/v2/repository/index",
        ):
            connection = connect(port, trusting(authority, own))
            connection.request("GET", path)
            assert connection.getresponse().status == 403, path
            connection.close()
        large = np.ones((10_000, 4), np.float32)
        options = {"keyfile": str(own.key), "certfile": str(own.cert), "ca_certs": str(authority.ca)}
        with triton.InferenceServerClient(f"localhost:{port}", ssl=True, ssl_options=options) as client:
            tensor = triton.InferInput("x", list(large.shape), "FP32")
            tensor.set_data_from_numpy(large)
            np.testing.assert_array_equal(client.infer("double", [tensor]).as_numpy("y"), 2 * large)
        assert refused(connect(port, trusting(authority, None)))

    async def run(node: Node) -> None:
        await asyncio.to_thread(proxied, name, node, tmp_path, steps)

    scenario(tmp_path, run)

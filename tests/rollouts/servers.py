"""Real vLLM servers on loopback, a few at a time, shared by all tests that need them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import httpx

from gradalign.engines import Engine, open_engine

KEY = "key-of-the-test-servers"
START_SECONDS = 600.0
MOST = 4
"""One of each bundled model that tests ask, and two of the small random one."""

_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    # The engine core runs the model itself. Else that is a third process, which imports vLLM anew
    # and waits for work without sleeping.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class ServerParent:
    """The process that servers are forked from, started when the first one is asked for."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def start(self, arguments: list[str], log: str) -> int:
        """Start a server that writes to `log`; return its process id."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("server_parent.py"))],
                env={**os.environ, **_ENVIRONMENT},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        print(json.dumps({"arguments": arguments, "log": log}), file=process.stdin, flush=True)
        answer = process.stdout.readline()
        assert answer, "the process that servers are forked from has ended: see above"
        return int(answer)

    def close(self) -> None:
        """End it; servers that are left are ended too."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=60)


_PARENT = ServerParent()


class Server:
    """A server process; `wait` returns when it answers."""

    def __init__(self, model: str, dtype: str = "float32") -> None:
        self.model, self.dtype = model, dtype
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.used = time.monotonic()
        self._log = tempfile.NamedTemporaryFile()  # noqa: SIM115, closed by stop()
        arguments = [
            *("--model", model, "--host", "127.0.0.1", "--port", str(port)),
            *("--api-key", KEY, "--dtype", dtype, "--enforce-eager", "--block-size", "32"),
            *("--kv-cache-memory-bytes", str(64 * 2**20), "--max-num-seqs", "64"),
            *("--max-logprobs", "256", "--enable-prompt-tokens-details", "--disable-log-stats"),
            "--no-enable-chunked-prefill",  # on CPU it cannot go with requests' own seeds
        ]
        if not (Path(model) / "tokenizer.json").exists():
            arguments.append("--skip-tokenizer-init")
        self.pid = _PARENT.start(arguments, self._log.name)

    @property
    def alive(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.alive:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return
            time.sleep(0.5)
        size = os.fstat(self._log.fileno()).st_size
        tail = os.pread(self._log.fileno(), 8192, max(0, size - 8192)).decode(errors="replace")
        self.stop()
        raise RuntimeError(f"the vLLM server did not start:\n{tail}")

    def kill(self) -> None:
        """End it as a crash would: without a word to its clients."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._await_end(60)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        self._await_end(15)
        self.kill()
        self._log.close()

    def _await_end(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.05)


class ServerFarm:
    """Starts servers when they are asked for; the one unused for longest makes room."""

    def __init__(self) -> None:
        self._servers: list[Server] = []

    def get(self, model: str | Path, count: int = 1) -> list[Server]:
        """Return `count` running servers of a model; one that was killed is replaced."""
        return self.get_all(*[model] * count)

    def get_all(self, *models: str | Path) -> list[Server]:
        """Return a running server for each of the models, in float32."""
        return self._get_all([(str(model), "float32") for model in models])

    def get_as(self, model: str | Path, *dtypes: str) -> list[Server]:
        """Return a running server of a model for each of the precisions."""
        return self._get_all([(str(model), dtype) for dtype in dtypes])

    def _get_all(self, wanted: Sequence[tuple[str, str]]) -> list[Server]:
        assert len(wanted) <= MOST
        self._servers = [server for server in self._servers if server.alive]
        found: list[Server | None] = []
        free = sorted(self._servers, key=lambda server: server.used)
        for model, dtype in wanted:
            match = next((s for s in free if (s.model, s.dtype) == (model, dtype)), None)
            found.append(match)
            if match is not None:
                free.remove(match)
        for server in free[: max(0, len(self._servers) + found.count(None) - MOST)]:
            server.stop()
            self._servers.remove(server)
        started = []
        for i, (model, dtype) in enumerate(wanted):
            if found[i] is None:
                found[i] = Server(model, dtype)
                started.append(found[i])
        self._servers += started
        for server in started:
            server.wait()
        for server in found:
            server.used = time.monotonic()
        return found

    def close(self) -> None:
        for server in self._servers:
            server.stop()
        self._servers = []
        _PARENT.close()


FARM = ServerFarm()
"""The servers of this test session; closed by a fixture of tests/conftest.py."""


@contextlib.contextmanager
def api_key(key: str | None = KEY) -> Iterator[None]:
    """Set (or, with None, clear) the key that clients read from the environment."""
    kept = {k: v for k, v in os.environ.items() if k not in {"GRADALIGN_API_KEY", "OPENAI_API_KEY"}}
    with mock.patch.dict(
        os.environ, kept | ({} if key is None else {"GRADALIGN_API_KEY": key}), clear=True
    ):
        yield


def open_on(
    urls: Sequence[str], model: str | Path, key: str | None = KEY, **options: Any
) -> Engine:
    """Open the server engine with the farm's key."""
    with api_key(key):
        return open_engine("server", model, base_urls=urls, **options)


class FaultyProxy:
    """Stands before a server and sometimes answers in its place.

    Args:
        target: the server's URL.
        fault: given the number of a completion request (from 0) and its body, a status to
            answer with, 0 to hang up, or None to pass it on.
        change: given an answer that is passed on, what the client gets instead.
        rename: what the model is called here, and there.
    """

    def __init__(
        self,
        target: str,
        fault: Callable[[int, bytes], int | None] = lambda *_: None,
        *,
        change: Callable[[bytes], bytes] = lambda content: content,
        rename: tuple[str, str] = ("", ""),
    ) -> None:
        here, there = (name.encode() for name in rename)
        self.seen = 0
        lock = threading.Lock()
        client = httpx.Client(trust_env=False, timeout=60)
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self._pass_on("GET", None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    number, outer.seen = outer.seen, outer.seen + 1
                status = fault(number, body)
                if status == 0:
                    self.close_connection = True
                elif status is not None:
                    self._answer(status, b'{"error": {"message": "made up by the test"}}')
                else:
                    self._pass_on("POST", body)

            def _pass_on(self, method: str, body: bytes | None) -> None:
                headers = {
                    name: value
                    for name, value in self.headers.items()
                    if name.lower() in {"authorization", "content-type"}
                }
                if body is not None and here:
                    body = body.replace(here, there)
                answer = client.request(method, target + self.path, content=body, headers=headers)
                content = answer.content.replace(there, here) if here else answer.content
                self._answer(answer.status_code, change(content))

            def _answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                if status == 429:
                    self.send_header("Retry-After", "0.2")
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def __enter__(self) -> FaultyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

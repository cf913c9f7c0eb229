"""A vLLM server on this machine, for as long as a row is measured."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from gradalign.models import resolve_model

START_SECONDS = 300.0


@contextmanager
def vllm_server(model: str, max_model_len: int) -> Iterator[str]:
    """Start a server with the settings that our engine uses in process; yield its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [
        *("--model", resolve_model(model), "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--block-size", "32"),
        *("--max-num-seqs", "128", "--no-enable-chunked-prefill", "--disable-log-stats"),
        *("--max-model-len", str(max_model_len + 1), "--kv-cache-memory-bytes", str(1 << 30)),
        *("--max-num-batched-tokens", str(max(4096, max_model_len + 1))),
        *(
            "--max-logprobs",
            "128",
            "--enable-prompt-tokens-details",
            "--disable-uvicorn-access-log",
        ),
    ]
    environment = {
        **os.environ,
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TORCHDYNAMO_DISABLE": "1",
    }
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(process, url, log.fileno())
            yield url
        finally:
            process.terminate()
            process.wait()


def cpu_seconds_of(process: psutil.Process) -> float:
    """CPU time of a process and all its threads, 0 if it is gone."""
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


def _wait(process: subprocess.Popen[bytes], url: str, log: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    size = os.fstat(log).st_size
    tail = os.pread(log, 4096, max(0, size - 4096)).decode(errors="replace")
    raise RuntimeError(f"the vLLM server did not start:\n{tail}")

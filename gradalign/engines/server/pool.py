"""Many requests to a few servers: the least loaded gets the next, a dead one gets no more.

An asyncio loop in a thread of its own holds all connections. The caller hands in jobs and takes
answers from a queue; everything about a server's health stays in the loop, and needs no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
    wait_random,
)

from gradalign.engines.server.checks import ServedModel
from gradalign.engines.server.http import (
    ServerUnavailableError,
    check_status,
    unavailable,
)
from gradalign.errors import EngineError, GradalignError

# Servers close idle connections after 5 s (uvicorn's default): ours are gone before that.
_KEEPALIVE_SECONDS = 3.0
# A request that servers answered with an error so often is to blame itself.
_MAX_FAILURES = 4
_LONGEST_WAIT_SECONDS = 5.0


@dataclass(frozen=True)
class PoolSettings:
    """How patient the pool is.

    Attributes:
        concurrency: sequences under way at one server at most.
        give_up_seconds: a server that cannot be reached for so long is dropped.
        timeout_seconds: longest time for one answer, and for which a server may say "busy".
    """

    concurrency: int = 256
    give_up_seconds: float = 15.0
    timeout_seconds: float = 1800.0


@dataclass
class Job:
    """A request body under a number of the caller's; `size` sequences come of it."""

    number: int
    body: dict[str, Any]
    size: int = 1
    failures: int = 0


@dataclass(frozen=True)
class Answer:
    """What came back: the body of the answer, or why there is none, or a remark on a server.

    Attributes:
        number: the job's, -1 for what concerns no single job.
        content: the JSON text, empty if there is none.
        error: ends the run.
        dropped: a server that is not used any more, and why.
    """

    number: int
    content: bytes = b""
    error: GradalignError | None = None
    dropped: str = ""


@dataclass(eq=False)
class _Server:
    model: ServedModel
    client: httpx.AsyncClient
    in_flight: int = 0
    state: str = "ready"
    strikes: int = 0
    last_success: float = field(default_factory=time.monotonic)
    why: str = ""


class RequestPool:
    """Sends jobs to servers and collects the answers.

    Args:
        models: the servers; at least one.
        settings: limits and patience.
    """

    def __init__(self, models: Sequence[ServedModel], settings: PoolSettings) -> None:
        self._settings = settings
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._pending: deque[Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._busy_since: float | None = None
        self._busy_seconds = 0.0
        self._loop = asyncio.new_event_loop()
        limits = httpx.Limits(
            max_connections=None,
            max_keepalive_connections=None,
            keepalive_expiry=_KEEPALIVE_SECONDS,
        )
        self._servers = [
            _Server(
                model,
                httpx.AsyncClient(
                    limits=limits, **model.address.client_options(settings.timeout_seconds)
                ),
            )
            for model in models
        ]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def capacity(self) -> int:
        """Sequences that all servers together take at a time."""
        alive = sum(server.state != "dropped" for server in self._servers)
        return max(alive, 1) * self._settings.concurrency

    @property
    def busy_seconds(self) -> float:
        """Seconds during which at least one request was under way."""
        since = self._busy_since
        return self._busy_seconds + (0.0 if since is None else time.monotonic() - since)

    def send(self, jobs: Iterable[Job]) -> None:
        """Queue jobs; their answers come from `receive` in any order."""
        self._loop.call_soon_threadsafe(self._add, list(jobs))

    def receive(self) -> Answer:
        """Wait for the next answer."""
        return self._answers.get()

    def abort(self) -> None:
        """Give up all jobs; servers stop working on them when their connections close.

        Returns once nothing can arrive any more.
        """
        self._run(self._abort())
        with contextlib.suppress(queue.Empty):
            while True:
                self._answers.get_nowait()

    def close(self) -> None:
        """Close all connections and end the thread."""
        if self._closed:
            return
        self._closed = True
        self._run(self._shut_down())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    # Everything below runs in the loop's thread.

    def _add(self, jobs: list[Job]) -> None:
        self._pending.extend(jobs)
        self._dispatch()

    def _dispatch(self) -> None:
        """Give pending jobs to ready servers, the least loaded first."""
        while self._pending:
            ready = [
                server
                for server in self._servers
                if server.state == "ready" and server.in_flight < self._settings.concurrency
            ]
            if not ready:
                break
            server = min(ready, key=lambda item: item.in_flight)
            job = self._pending.popleft()
            server.in_flight += job.size
            self._start(self._attempt(server, job))
        if self._pending and all(server.state == "dropped" for server in self._servers):
            self._fail(-1, self._all_gone())
        self._keep_time()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)  # the loop itself holds only weak references
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Without this the caller would wait for ever.
            failure = EngineError(f"the request pool failed: {type(error).__name__}: {error}.")
            failure.__cause__ = error
            self._answers.put(Answer(-1, error=failure))

    def _keep_time(self) -> None:
        under_way = bool(self._pending) or any(server.in_flight for server in self._servers)
        if under_way and self._busy_since is None:
            self._busy_since = time.monotonic()
        elif not under_way and self._busy_since is not None:
            self._busy_seconds += time.monotonic() - self._busy_since
            self._busy_since = None

    async def _attempt(self, server: _Server, job: Job) -> None:
        """Do a job at a server; if the server fails, the job goes to whoever is ready."""
        body = {"model": server.model.name, **job.body}
        try:
            content = await self._post(server, body)
        except ServerUnavailableError as error:
            self._strike(server, job, error)
        except GradalignError as error:
            self._fail(job.number, error)
        else:
            server.strikes = 0
            server.last_success = time.monotonic()
            self._answers.put(Answer(job.number, content))
        finally:
            server.in_flight -= job.size
            self._dispatch()

    async def _post(self, server: _Server, body: dict[str, Any]) -> bytes:
        address = server.model.address
        try:
            response = await server.client.post(
                f"{address.url}/completions",
                content=json.dumps(body, separators=(",", ":")),
                headers={"Content-Type": "application/json"},
            )
        except httpx.TransportError as error:
            raise unavailable(error) from error
        check_status(response, address)
        return response.content

    def _strike(self, server: _Server, job: Job, error: ServerUnavailableError) -> None:
        """Put a job back, and leave its server alone until it answers again."""
        job.failures += error.kind == "failed"
        if job.failures >= _MAX_FAILURES:
            self._fail(
                job.number,
                EngineError(
                    f"a request failed {job.failures} times, last at {server.model.address.url}: "
                    f"{error}.",
                    "Look into the server's log. Finished shards are kept: run the same command "
                    "again.",
                ),
            )
            return
        self._pending.appendleft(job)
        if server.state == "ready":  # its other requests fail too: they count as one
            server.state = "resting"
            server.strikes += 1
            server.why = str(error)
            pause = 0.25 * 2.0 ** min(server.strikes - 2, 5) if server.strikes > 1 else 0.0
            self._start(self._recover(server, max(pause, error.wait_seconds), error))

    async def _recover(
        self, server: _Server, pause_seconds: float, error: ServerUnavailableError
    ) -> None:
        """Ask a server until it answers, then use it again; drop it if it does not."""
        await asyncio.sleep(pause_seconds)
        silent_for = time.monotonic() - server.last_success
        if error.kind == "busy" and silent_for > self._settings.timeout_seconds:
            self._drop(server)
            return
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_delay(self._settings.give_up_seconds),
                wait=wait_exponential(0.25, _LONGEST_WAIT_SECONDS) + wait_random(0, 0.25),
                retry=retry_if_exception_type(ServerUnavailableError),
                reraise=True,
            ):
                with attempt:
                    await self._ask(server)
        except ServerUnavailableError as last:
            server.why = str(last)
            self._drop(server)
        except GradalignError as refusal:
            server.why = refusal.message
            self._drop(server)
        else:
            server.state = "ready"
            self._dispatch()

    async def _ask(self, server: _Server) -> None:
        address = server.model.address
        try:
            response = await server.client.get(f"{address.url}/models", timeout=5.0)
        except httpx.TransportError as error:
            raise unavailable(error) from error
        check_status(response, address)

    def _drop(self, server: _Server) -> None:
        server.state = "dropped"
        self._answers.put(Answer(-1, dropped=f"{server.model.address.url} ({server.why})"))
        self._dispatch()

    def _fail(self, number: int, error: GradalignError) -> None:
        self._pending.clear()
        self._answers.put(Answer(number, error=error))

    def _all_gone(self) -> EngineError:
        listed = "; ".join(f"{s.model.address.url}: {s.why}" for s in self._servers)
        return EngineError(
            f"no server is left. {listed}.",
            "Finished shards are kept: start the servers and run the same command again.",
        )

    async def _abort(self) -> None:
        self._pending.clear()
        current = asyncio.current_task()
        recovering = {s for s in self._servers if s.state == "resting"}
        for task in (tasks := [task for task in self._tasks if task is not current]):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in recovering:
            server.state = "ready"  # the next job finds out
        self._keep_time()

    async def _shut_down(self) -> None:
        await self._abort()
        for server in self._servers:
            await server.client.aclose()

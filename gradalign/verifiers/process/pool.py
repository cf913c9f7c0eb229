"""Verification in processes with a hard time limit per response."""

from __future__ import annotations

import hashlib
import selectors
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

from gradalign.errors import UsageError, VerifierError
from gradalign.questions import Question
from gradalign.verifiers.base import Verifier
from gradalign.verifiers.judge import Verdict, judge
from gradalign.verifiers.process.loader import Loader, WorkerLink
from gradalign.verifiers.process.protocol import Unpacker, pack
from gradalign.verifiers.registry import get

_BATCH_ITEMS = 256
_BATCH_CHARACTERS = 1 << 20
_MEMO_ENTRIES = 1 << 16
_QUESTION_ENTRIES = 256


@dataclass
class _Worker:
    """A process at work: the items of its batch that it has not answered, and by when."""

    link: WorkerLink
    unpacker: Unpacker = field(default_factory=Unpacker)
    open_items: deque[int] = field(default_factory=deque)
    deadline: float = 0.0


class VerifierPool:
    """Runs one verifier on many responses; no verification can stop the run.

    A verification that is not done in `timeout_seconds` is killed with its process and counts
    as a failure, as do one that raises, one that crashes its process, and one that returns
    something other than a number in [0, 1]. A failure has no reward. Equal (response, question)
    pairs are verified once. Verifiers that cannot hang (`exact`, `choice`) run in this process.

    Args:
        spec: the verifier, as for `gradalign.verifiers.get`.
        num_workers: processes, at least 1.
        timeout_seconds: for one response.

    Attributes:
        failures: number of failed verifications by kind (see `Verdict`).
        examples: the first failure of each kind, in words.
    """

    def __init__(self, spec: str, num_workers: int = 2, timeout_seconds: float = 10.0) -> None:
        if num_workers < 1 or not timeout_seconds > 0:
            raise UsageError(
                f"a verifier pool needs a worker and a time limit, got {num_workers} and "
                f"{timeout_seconds}.",
                "Use at least one worker and a positive limit.",
            )
        self.spec = spec
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._verifier: Verifier = get(spec)
        self._timeout = timeout_seconds
        self._lock = threading.Lock()
        self._memo: dict[bytes, Verdict] = {}
        self._known: OrderedDict[int, tuple[Question, bytes]] = OrderedDict()
        self._loader = None if self._verifier.in_process else Loader(spec)
        self._num_workers = num_workers
        self._workers: list[_Worker] = []

    def __enter__(self) -> VerifierPool:
        """Begin to load the verifier in its process; does not wait for it."""
        if self._loader is not None:
            self._loader.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all processes."""
        self.close()

    def close(self) -> None:
        """End all processes; scoring again would start them again."""
        for worker in self._workers:
            worker.link.connection.close()
        self._workers.clear()
        if self._loader is not None:
            self._loader.close()

    def score(self, items: Sequence[tuple[str, Question]]) -> list[Verdict]:
        """Verify (response, question) pairs; the verdicts come in the order of the items.

        Raises:
            VerifierError: the verifier cannot be loaded in a process of its own.
        """
        with self._lock:
            keys = [self._key(text, question) for text, question in items]
            fresh = {
                key: item for key, item in zip(keys, items, strict=True) if key not in self._memo
            }
            found = dict(zip(fresh, self._verify(list(fresh.values())), strict=True))
            verdicts = [found[key] if key in found else self._memo[key] for key in keys]
            for verdict in verdicts:
                if verdict.error_kind is not None:
                    self.failures[verdict.error_kind] += 1
                    self.examples.setdefault(verdict.error_kind, verdict.detail)
            self._memo.update(found)
            while len(self._memo) > _MEMO_ENTRIES:
                del self._memo[next(iter(self._memo))]
            return verdicts

    def _key(self, text: str, question: Question) -> bytes:
        known = self._known.get(id(question))
        # The question is kept, so that its id is not given to another one meanwhile.
        if known is None:
            digest = hashlib.blake2b(pack(question.to_record()), digest_size=16).digest()
            known = self._known[id(question)] = (question, digest)
            if len(self._known) > _QUESTION_ENTRIES:
                self._known.popitem(last=False)
        hashed = hashlib.blake2b(known[1], digest_size=16)
        hashed.update(text.encode("utf-8", "surrogatepass"))
        return hashed.digest()

    def _verify(self, items: list[tuple[str, Question]]) -> list[Verdict]:
        if self._loader is None:
            return [judge(self._verifier, text, question) for text, question in items]
        try:
            return self._run(self._loader, items) if items else []
        except BaseException:
            # Processes that are still at work would answer the next call's items.
            self.close()
            raise

    def _run(self, loader: Loader, items: list[tuple[str, Question]]) -> list[Verdict]:
        """Hand batches to processes, and replace those that run out of time or end."""
        verdicts: dict[int, Verdict] = {}
        waiting = deque(range(len(items)))
        share = max(1, min(_BATCH_ITEMS, len(items) // (4 * self._num_workers)))
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                selector.register(worker.link.connection, selectors.EVENT_READ, worker)
            busy: list[_Worker] = []
            refusals = 0
            while waiting or busy:
                idle = [worker for worker in self._workers if worker not in busy]
                while waiting and (idle or len(self._workers) < self._num_workers):
                    if idle:
                        worker = idle.pop()
                    else:
                        worker = _Worker(loader.fork())
                        self._workers.append(worker)
                        selector.register(worker.link.connection, selectors.EVENT_READ, worker)
                    if self._send(worker, items, waiting, share):
                        busy.append(worker)
                        refusals = 0
                        continue
                    self._drop(worker, selector, loader)
                    refusals += 1
                    if refusals > self._num_workers + 2:
                        raise VerifierError(
                            f"the processes of verifier {self.spec} end before they start.",
                            "See what they printed; the machine may be out of memory.",
                        )
                patience = min(worker.deadline for worker in busy) - time.monotonic()
                for key, _ in selector.select(max(0.0, patience)):
                    worker = key.data
                    if not self._collect(worker, verdicts):
                        self._drop(worker, selector, loader)
                        self._give_up(worker, Verdict(None, "crashed", "process ended"), verdicts)
                        waiting.extendleft(reversed(worker.open_items))
                        worker.open_items.clear()
                now = time.monotonic()
                for worker in busy:
                    if worker.open_items and worker.deadline <= now:
                        late = Verdict(None, "timeout", f"not done in {self._timeout:g} s")
                        self._drop(worker, selector, loader)
                        self._give_up(worker, late, verdicts)
                        waiting.extendleft(reversed(worker.open_items))
                        worker.open_items.clear()
                busy = [worker for worker in busy if worker.open_items]
        return [verdicts[index] for index in range(len(items))]

    def _send(
        self, worker: _Worker, items: list[tuple[str, Question]], waiting: deque[int], share: int
    ) -> bool:
        """Give a worker its next batch; False if it has ended (nothing is lost then)."""
        questions: dict[int, int] = {}
        records: list[Question] = []
        batch: list[tuple[int, str]] = []
        characters = 0
        while waiting and len(batch) < share and characters < _BATCH_CHARACTERS:
            index = waiting.popleft()
            text, question = items[index]
            if id(question) not in questions:
                questions[id(question)] = len(records)
                records.append(question)
            batch.append((questions[id(question)], text))
            characters += len(text)
            worker.open_items.append(index)
        frame = pack({"questions": [q.to_record() for q in records], "items": batch})
        try:
            worker.link.connection.sendall(frame)
        except OSError:
            waiting.extendleft(reversed(worker.open_items))
            worker.open_items.clear()
            return False
        worker.deadline = time.monotonic() + self._timeout
        return True

    def _collect(self, worker: _Worker, verdicts: dict[int, Verdict]) -> bool:
        """Take what a worker has sent; False if it has ended."""
        try:
            data = worker.link.connection.recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            return False
        for fields in worker.unpacker.feed(data):
            verdicts[worker.open_items.popleft()] = Verdict(*fields)
            worker.deadline = time.monotonic() + self._timeout
        return True

    def _drop(self, worker: _Worker, selector: selectors.BaseSelector, loader: Loader) -> None:
        selector.unregister(worker.link.connection)
        worker.link.connection.close()
        self._workers.remove(worker)
        loader.kill(worker.link.pid)

    @staticmethod
    def _give_up(worker: _Worker, verdict: Verdict, verdicts: dict[int, Verdict]) -> None:
        """Blame the item that the worker was at; the rest of its batch goes back."""
        if worker.open_items:
            verdicts[worker.open_items.popleft()] = verdict


def failures_in_words(failures: Iterable[tuple[str, int]], examples: dict[str, str]) -> str:
    """Return one line on failed verifications, such as "3 timeout (not done in 10 s)"."""
    return ", ".join(
        f"{count} {kind} ({examples[kind]})" if kind in examples else f"{count} {kind}"
        for kind, count in failures
    )

"""Running vLLM servers as a rollout engine: token ids in and out of /v1/completions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.base import Completion, Engine, EngineSpec, EngineUsage
from gradalign.engines.requests import ModelLimits, Request, context_length
from gradalign.engines.server.checks import WantedModel, find_servers
from gradalign.engines.server.cut import bans
from gradalign.engines.server.http import parse_addresses
from gradalign.engines.server.messages import (
    read_choices,
    read_completion,
    read_scores,
    sampling_body,
    scoring_body,
)
from gradalign.engines.server.pool import Answer, Job, PoolSettings, RequestPool
from gradalign.errors import EngineError, ModelError, UsageError
from gradalign.models.checkpoints.loading import context_length as configured_length
from gradalign.models.checkpoints.loading import load_config, resolve_model, vocab_size
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.numbers import NotNumbersError, at_index

# Samples of one request: a server that dies loses what it had drawn of them.
_MOST_SAMPLES = 32

_ARGUMENTS = ("concurrency", "give_up_seconds", "timeout_seconds", "served_model_name")


class ServerEngine(Engine):
    """Samples through any number of vLLM servers: least loaded first, one seed per request.

    A server that stops answering is dropped with a warning, and what it had in hand goes to the
    others; seeds make sure that the results are the same.

    Args:
        spec: the model and how it is sampled. Its `base_urls` are the servers; its `engine_args`
            may hold `concurrency` (sequences under way per server), `give_up_seconds` (for which
            a server may be unreachable), `timeout_seconds` (for one answer) and
            `served_model_name`.
        all_must_answer: a server that does not answer at once is an error.
        flag: the setting that the servers came from, for messages.

    Attributes:
        limits: what is sent to servers at most.
        server_len: context of the server that has the shortest.
        outside: ids of the output layer that are none of the spec's tokens; never drawn.

    Raises:
        UsageError: no or wrong URL, unknown argument, or a server that has not this model.
        ModelError: the model's configuration is not there.
        EngineError: no server answers.
    """

    name = "server"
    holds_memory = False

    def __init__(
        self, spec: EngineSpec, *, all_must_answer: bool = False, flag: str = "--base-url"
    ) -> None:
        names, settings = _arguments(spec)
        config = load_config(
            spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        size = vocab_size(spec.model, config)
        longest = context_length(configured_length(config), spec.max_model_len, spec.model)
        wanted = WantedModel(
            names=names,
            vocab_size=size,
            max_model_len=spec.max_model_len,
            tokenizer=_tokenizer(spec),
            flag=flag,
        )
        found = find_servers(
            parse_addresses(spec.base_urls), wanted, all_must_answer=all_must_answer
        )
        lengths = [model.max_model_len for model in found if model.max_model_len is not None]
        self.limits = ModelLimits(vocab_size=size, max_model_len=min([longest, *lengths]))
        self.server_len = min(lengths, default=self.limits.max_model_len)
        self.longest_server_len = max(lengths, default=None)
        self.sampling = spec.sampling
        self.outside = frozenset([] if spec.tokens is None else spec.tokens.missing(size).tolist())
        self._bans = bans(self.outside)
        self.usage = EngineUsage()
        self.usage.extra["servers"] = [model.address.url for model in found]
        self._pool = RequestPool(found, settings)
        self._next_number = 0
        # What was sent, by the number of its job: requests that differ in their seeds only.
        self._sent: dict[int, list[Request]] = {}

    @property
    def room(self) -> int:
        """How many more requests it can make use of now; see Engine."""
        # A quarter more than the servers take: there is always a next one at hand.
        return max(0, self._pool.capacity * 5 // 4 - self._num_running)

    def logprobs(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability (natural log, temperature 1) of each token from `start` on."""
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            self.limits.check_sequence(index, ids, start)
        bodies = [scoring_body(ids, self.server_len) for ids in sequences]
        found: list[npt.NDArray[np.float32]] = [np.zeros(0, dtype=np.float32)] * len(bodies)
        for index, choice in self.ask(bodies):
            with at_index(index):
                found[index] = read_scores(choice, sequences[index], starts[index])
        return found

    def ask(self, bodies: Sequence[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (index, first choice of the answer) for any completion requests, in any order.

        Raises:
            EngineError: a request is refused, or no server is left.
        """
        self._check_open()
        ahead = enumerate(bodies)
        waiting: dict[int, int] = {}
        with self._alone() as check:
            while True:
                # Answers may be large: no more are asked for than can be under way.
                jobs = []
                for index, body in islice(ahead, max(0, self._pool.capacity - len(waiting))):
                    number = self._number()
                    waiting[number] = index
                    jobs.append(Job(number, body))
                if jobs:
                    self._pool.send(jobs)
                if not waiting:
                    return
                self._num_running = len(waiting)
                answer = self._answer(waiting.get)
                if answer.number in waiting:
                    (choice,), _ = read_choices(answer.content)
                    index = waiting.pop(answer.number)
                    self._num_running = len(waiting)
                    yield index, choice
                    check()

    def _start(self, requests: Sequence[Request]) -> None:
        """Hand requests to the pool in tree order, so that cached prefixes are met at once."""
        jobs = []
        fixed = sampling_body(self.sampling) | self._bans
        for group in sample_groups(requests):
            number = self._number()
            self._sent[number] = group
            first = group[0]
            own = {
                "prompt": [int(token) for token in first.prompt_ids],
                "max_tokens": first.max_tokens,
                "seed": first.seed,
                "n": len(group),
            }
            jobs.append(Job(number, fixed | own, size=len(group)))
        self._pool.send(jobs)

    def _advance(self) -> list[tuple[Any, Completion]]:
        """Wait for the next answer of a server."""
        answer = self._answer(lambda number: self._sent[number][0].key)
        if answer.number not in self._sent:  # it is about a server
            return []
        group = self._sent.pop(answer.number)
        choices, usage = read_choices(answer.content, len(group))
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        self.usage.prefilled_tokens += len(group[0].prompt_ids) - int(cached)
        stops = set(self.sampling.stop_token_ids)
        done: list[tuple[Any, Completion]] = []
        for request, choice in zip(group, choices, strict=True):
            completion = read_completion(choice, request, stops)
            self._check_drawn(completion)
            done.append((request.key, completion))
        return done

    def _drop(self) -> None:
        self._sent.clear()
        self._pool.abort()

    def _free(self) -> None:
        """Close the connections; what servers were doing for this engine ends."""
        self._pool.close()

    def _check_drawn(self, completion: Completion) -> None:
        """Check that a server kept to the bias that rules ids out.

        Raises:
            EngineError: it did not.
        """
        if self.outside and not self.outside.isdisjoint(completion.token_ids.tolist()):
            raise EngineError(
                "a server drew an id that stands for no token: it ignores logit_bias.",
                "A vLLM server is needed, which knows it.",
            )

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def _answer(self, name: Callable[[int], Any]) -> Answer:
        """Wait for the next answer; `name` says whose a job's number is, for an error."""
        answer = self._pool.receive()
        self.usage.add_seconds(self._pool.busy_seconds - self.usage.seconds)
        if isinstance(answer.error, NotNumbersError):
            raise NotNumbersError(name(answer.number))
        if answer.error is not None:
            raise answer.error
        if answer.dropped:
            self.usage.extra.setdefault("dropped", []).append(answer.dropped)
            warnings.warn(
                f"server {answer.dropped} is gone: its requests go to the others.", stacklevel=4
            )
        return answer


def sample_groups(requests: Sequence[Request]) -> list[list[Request]]:
    """Put together, in tree order, what a server can be asked for in one request.

    vLLM gives sample i of a request with n samples the seed `seed + i`, so requests that differ
    only in seeds that follow one another are that request: parsing and answering it costs a server
    more than a short continuation does. Which ones are found together changes no result.
    """
    groups: list[list[Request]] = []
    for request in sorted(requests, key=lambda item: (item.prompt_ids, item.max_tokens, item.seed)):
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and request == replace(last, seed=last.seed + 1)
            and len(groups[-1]) < _MOST_SAMPLES
        ):
            groups[-1].append(request)
        else:
            groups.append([request])
    return groups


def _arguments(spec: EngineSpec) -> tuple[list[str], PoolSettings]:
    """Read the engine arguments.

    Raises:
        UsageError: one that is not known, or of the wrong kind.
    """
    unknown = sorted(set(spec.engine_args) - set(_ARGUMENTS))
    if unknown:
        raise UsageError(
            f"engine server has no argument {unknown[0]!r}.",
            f"Known: {', '.join(_ARGUMENTS)}. A server's own settings belong on its command line.",
        )
    arguments = dict(spec.engine_args)
    served = arguments.pop("served_model_name", None)
    for key, value in arguments.items():
        kinds = int if key == "concurrency" else (int, float)
        if not isinstance(value, kinds) or isinstance(value, bool) or value <= 0:
            raise UsageError(f"engine argument {key} must be a positive number, got {value!r}.")
    names = [spec.model, resolve_model(spec.model)] if served is None else [str(served)]
    return names, PoolSettings(**arguments)


def _tokenizer(spec: EngineSpec) -> Any | None:
    try:
        return load_tokenizer(resolve_model(spec.model), spec.revision, spec.trust_remote_code)
    except ModelError:  # a model that is only ever given token ids
        return None

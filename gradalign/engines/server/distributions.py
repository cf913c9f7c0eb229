"""A teacher that runs on vLLM servers: what it says along given responses.

A server answers with log-probabilities of its own most probable tokens at every position of a
prompt, and, where it knows `logprob_token_ids`, with those of any tokens after a prompt. So the
student's tokens are asked for node by node. What a server does not tell is NaN here, never a
guess.

Axes: _L positions of a response, _W top tokens, _N chosen positions, _S support.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gradalign.engines.server.cut import check_hidden, cut, hidden_mass
from gradalign.engines.server.engine import ServerEngine
from gradalign.engines.server.messages import (
    sampled_logprobs,
    sampling_body,
    scoring_body,
    token_logprobs,
)
from gradalign.errors import EngineError
from gradalign.models.continuations import Offshoot
from gradalign.models.distributions import ForcedSequence, PositionView, SupportView
from gradalign.models.numbers import at_index
from gradalign.models.sampling import SamplingSettings

Float32s = npt.NDArray[np.float32]
Int32s = npt.NDArray[np.int32]

ENTROPY_TOLERANCE = 0.01
"""Nats by which an entropy from top tokens may be off; where it may be more off, it is NaN."""

RESOLUTION = 1e-7
"""Least mass that a difference of float32 probabilities from 1 can tell from nothing."""

# vLLM refuses more `logprob_token_ids` in one request.
_IDS_PER_REQUEST = 128


@dataclass(frozen=True)
class AskedSequence:
    """A response after the teacher's prompt, and what is wanted of it.

    Attributes:
        forced: prompt and response.
        positions_N: the chosen positions of the response, rising.
        student_ids: per chosen position, the tokens to be known besides the teacher's own.
    """

    forced: ForcedSequence
    positions_N: npt.NDArray[np.int64]
    student_ids: Sequence[Int32s]


@dataclass(frozen=True)
class ServedReading:
    """What a served teacher says of one response.

    Attributes:
        view: of every position; `entropy_L` is NaN where the top tokens do not fix it.
        unions: per chosen position, the teacher's top tokens, the student's, the drawn one.
        at: the teacher there; NaN for a token that the server says nothing of, whose mass is in
            the tail. `tail_powers` are NaN: a sum over single tokens of the tail is not known.
    """

    view: PositionView
    unions: list[Int32s]
    at: SupportView


def served_readings(
    engine: ServerEngine,
    sequences: Sequence[AskedSequence],
    *,
    num_view: int,
    num_top: int,
    temperatures: Sequence[float] = (),
    fill: bool = True,
) -> Iterator[tuple[int, ServedReading]]:
    """Yield (index, reading) for every sequence with a response, in any order.

    Args:
        engine: the teacher's servers.
        sequences: prompts with responses.
        num_view: top tokens kept of every position.
        num_top: top tokens asked for, `num_view` or more; a server's `--max-logprobs` must allow
            it.
        temperatures: as in `at_tokens`.
        fill: ask for the student's tokens that are not among the top ones.

    Raises:
        EngineError: a server refuses, or no server is left.
    """
    outside = engine.outside
    vocab = engine.limits.vocab_size - len(outside)
    num_top = min(num_top, engine.limits.vocab_size)
    num_view = min(num_view, num_top, vocab)
    asked = [i for i, sequence in enumerate(sequences) if len(sequence.forced.response_ids)]
    for i in asked:
        engine.limits.check_sequence(i, _ids(sequences[i]), 1)
    bodies = [scoring_body(_ids(sequences[i]), engine.server_len, num_top=num_top) for i in asked]
    waiting: list[tuple[int, PositionView, list[dict[int, float]]]] = []
    tops: dict[int, list[dict[int, float]]] = {}
    for place, choice in engine.ask(bodies):
        i = asked[place]
        with at_index(i):
            rows = token_logprobs(choice)[len(sequences[i].forced.prompt_ids) :]
        _check_rows(rows, sequences[i].forced.response_ids, num_top)
        inside = [cut(row, outside) for row in rows] if outside else rows
        view = _view(inside, sequences[i].forced.response_ids, num_view, num_top, vocab)
        chosen = [rows[int(position)] for position in sequences[i].positions_N]
        tops[i] = [dict(row) for row in chosen] if outside else chosen
        waiting.append((i, view, chosen))
    if fill:
        _fill(engine, sequences, {i: chosen for i, _, chosen in waiting})
        for i, _, chosen in waiting if outside else []:
            for top, row in zip(tops[i], chosen, strict=True):
                check_hidden(hidden_mass(top, row, outside, num_top))
    for i, view, chosen in waiting:
        num_tops = [num_top - sum(token in outside for token in top) for top in tops[i]]
        inside = [cut(row, outside) for row in chosen] if outside else chosen
        yield i, _reading(sequences[i], view, inside, num_tops, vocab, temperatures)


def served_offshoot_logprobs(
    engine: ServerEngine, trunk_ids: Sequence[int], offshoots: Sequence[Offshoot]
) -> list[Float32s]:
    """Return log-probabilities of every token AFTER each forced candidate, as a model would.

    See `gradalign.models.continuations.offshoot_logprobs`. Each continuation is read whole:
    servers do not take prompt log-probabilities from their prefix cache.
    """
    found = [np.zeros(0, dtype=np.float32) for _ in offshoots]
    longer = [i for i, offshoot in enumerate(offshoots) if len(offshoot.token_ids) > 1]
    if engine.outside and longer:
        _check_outside(engine, trunk_ids, sorted({offshoots[i].start for i in longer}))
    sequences = [[*trunk_ids[: offshoots[i].start], *offshoots[i].token_ids] for i in longer]
    scores = engine.logprobs(sequences, [offshoots[i].start + 1 for i in longer])
    for i, score in zip(longer, scores, strict=True):
        found[i] = score
    return found


def _check_outside(engine: ServerEngine, trunk_ids: Sequence[int], starts: Sequence[int]) -> None:
    """Measure the mass outside the tokens at a few nodes of a spine: scores cannot be cut.

    Raises:
        EngineError: it is more than scores may be off by.
    """
    some = [starts[place] for place in sorted({0, len(starts) // 2, len(starts) - 1})]
    empty = np.zeros(0, dtype=np.int32)
    rows: list[dict[int, float]] = [{} for _ in some]
    for start, row in zip(some, rows, strict=True):
        sequence = AskedSequence(
            ForcedSequence(trunk_ids[:start], ()), np.zeros(1, dtype=np.int64), [empty]
        )
        _fill(engine, [sequence], {0: [row]})
        if len(row) < len(engine.outside):
            raise EngineError(
                "a server does not tell the mass of rows that stand for no token.",
                "Upgrade it to a vLLM that knows logprob_token_ids, or leave out methods that "
                "look at continuations.",
            )
        check_hidden(float(np.exp(np.array(list(row.values()))).sum()))


def _ids(sequence: AskedSequence) -> list[int]:
    return [*map(int, sequence.forced.prompt_ids), *map(int, sequence.forced.response_ids)]


def _view(
    rows: list[dict[int, float]],
    response_ids: Sequence[int] | Int32s,
    num_view: int,
    num_top: int,
    vocab: int,
) -> PositionView:
    """Reduce a response's answers to what is kept of every position.

    Raises:
        EngineError: a position has fewer tokens than are kept, or lacks the drawn one.
    """
    if min(map(len, rows)) < num_view:
        raise EngineError(
            f"fewer than {num_view} of a served teacher's {num_top} most probable rows stand for "
            "tokens of both models.",
            "Raise --support-size, or read this teacher without --teacher-base-url.",
        )
    tops = [sorted(row.items(), key=lambda item: (-item[1], item[0]))[:num_top] for row in rows]
    try:
        drawn = [row[int(token)] for row, token in zip(rows, response_ids, strict=True)]
    except KeyError as error:
        raise EngineError(f"a server says nothing of token {error} of its own prompt.") from None
    return PositionView(
        logprob_L=np.array(drawn, dtype=np.float32),
        entropy_L=np.array(
            [_entropy(row, top[-1][1], vocab) for row, top in zip(rows, tops, strict=True)],
            dtype=np.float32,
        ),
        top_ids_LW=np.array([[t for t, _ in top[:num_view]] for top in tops], dtype=np.int32),
        top_logprobs_LW=np.array([[p for _, p in top[:num_view]] for top in tops], np.float32),
    )


def _check_rows(
    rows: list[dict[int, float]], response_ids: Sequence[int] | Int32s, num_top: int
) -> None:
    """Check that a server answered with what was asked for.

    Raises:
        EngineError: a position has fewer tokens, or there are fewer positions.
    """
    if len(rows) != len(response_ids) or min(map(len, rows)) < num_top:
        raise EngineError(
            f"a server answered with fewer than {num_top} log-probabilities per position.",
            "A vLLM server is needed, started with a --max-logprobs that allows as many.",
        )


def _entropy(row: dict[int, float], least: float, vocab: int) -> float:
    """Return the entropy if the known tokens fix it to `ENTROPY_TOLERANCE`, else NaN.

    The tail has at most the entropy of an even spread, and at least that of as few tokens as
    can hold it: none of them is more probable than the least of the top ones.
    """
    log_q = np.array([value for value in row.values() if np.isfinite(value)])
    q = np.exp(log_q)
    known = float(-(q * log_q).sum())
    rest = vocab - len(row)
    tail = max(0.0, 1.0 - float(q.sum()))
    if rest == 0 or tail == 0.0 or not np.isfinite(least):
        return known
    most, fewest = tail * np.log(rest / tail), tail * max(-least, -np.log(tail))
    if most - fewest > 2 * ENTROPY_TOLERANCE:
        return float(np.nan)
    return float(known + 0.5 * (most + fewest))


def _fill(
    engine: ServerEngine,
    sequences: Sequence[AskedSequence],
    known: dict[int, list[dict[int, float]]],
) -> None:
    """Ask, node by node, for the student's tokens that are not known, and add what comes."""
    bodies: list[dict[str, Any]] = []
    owners: list[tuple[int, dict[int, float]]] = []
    fixed = sampling_body(SamplingSettings()) | {
        "max_tokens": 1,
        "seed": 0,
        "logprobs": 0,
        "return_tokens_as_token_ids": True,
    }
    for i, rows in known.items():
        sequence = sequences[i]
        ids, prompt_len = _ids(sequence), len(sequence.forced.prompt_ids)
        for position, wanted, row in zip(
            sequence.positions_N, sequence.student_ids, rows, strict=True
        ):
            # What lies outside the tokens is asked for too, to be cut off.
            every = dict.fromkeys([*map(int, wanted), *sorted(engine.outside)])
            missing = [token for token in every if token not in row]
            for begin in range(0, len(missing), _IDS_PER_REQUEST):
                bodies.append(
                    fixed
                    | {
                        "prompt": ids[: prompt_len + int(position)],
                        "logprob_token_ids": missing[begin : begin + _IDS_PER_REQUEST],
                    }
                )
                owners.append((i, row))
    for place, choice in engine.ask(bodies):
        asked = bodies[place]["logprob_token_ids"]
        i, row = owners[place]
        with at_index(i):
            answered = sampled_logprobs(choice["logprobs"]) if choice.get("logprobs") else {}
        # An old server ignores the field and answers with the sampled token only.
        row.update({token: answered[token] for token in asked if token in answered})


def _reading(
    sequence: AskedSequence,
    view: PositionView,
    rows: list[dict[int, float]],
    num_tops: Sequence[int],
    vocab: int,
    temperatures: Sequence[float],
) -> ServedReading:
    unions, logprobs, tails = [], [], []
    for wanted, row, num_top in zip(sequence.student_ids, rows, num_tops, strict=True):
        union = np.union1d(np.array(sorted(row), dtype=np.int32), wanted).astype(np.int32)
        log_q = np.array([row.get(int(token), np.nan) for token in union], dtype=np.float32)
        unions.append(union)
        logprobs.append(log_q)
        tails.append(_log_tail(row, num_top, vocab))
    return ServedReading(
        view,
        unions,
        SupportView(
            logprobs=logprobs,
            log_tail_N=np.array(tails, dtype=np.float64),
            tail_powers={t: np.full(len(rows), np.nan) for t in temperatures},
        ),
    )


def _log_tail(row: dict[int, float], num_top: int, vocab: int) -> float:
    """Return the log of the mass of the tokens that are not known.

    It is a difference from 1, hence known to `RESOLUTION` only; and no unknown token is more
    probable than the least of the top ones, which bounds it from above.
    """
    rest = vocab - len(row)
    if rest <= 0:
        return float(-np.inf)
    values = np.sort(np.array(list(row.values())))[::-1]
    bound = rest * float(np.exp(values[min(num_top, len(values)) - 1]))
    mass = 1.0 - float(np.exp(values).sum())
    least = float(np.finfo(np.float64).tiny)
    return math.log(max(min(max(mass, RESOLUTION), bound), least))

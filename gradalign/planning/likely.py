"""What a run will likely come to: ratios of past runs instead of upper bounds.

Measured on finished runs of the bundled student (`demo:addition`, 24 tokens a response where 241
are allowed; 12 to 96 questions; a rollout's length by the response's):

| setting | candidates per node | rollouts per node and continuation | length of a rollout |
| --- | --- | --- | --- |
| 16 nodes, 8 continuations | 1.77 | 0.71 | 0.22 |
| 8 nodes, 6 continuations | 2.3 | 1.6 | 0.24 |
| 8 nodes, 4 continuations | 2.2 | 1.45 | 0.25 |
| 4 nodes, 2 continuations | 1.8 to 2.3 | 1.1 to 2.0 | 0.34 to 0.42 |
| 6 nodes, 12, uniform | 2.4 | 1.9 | 0.34 |
| all nodes, 4 continuations | 1.5 to 2.0 | 0.65 to 1.0 | 0.22 to 0.28 |

and of real models, with vocabularies of 49,152 and 151,936 tokens (sums of two or three numbers,
22 and 30 tokens a response where 32 and 96 are allowed):

| model and setting | candidates | rollouts | length of a rollout |
| --- | --- | --- | --- |
| SmolLM2-135M-Instruct, 4 nodes, 3 continuations | 9.0 | 8.2 | 0.62 |
| Qwen2.5-Coder-0.5B-Instruct, 6 nodes, 4 continuations | 3.8 | 2.6 | 0.61 |

Where nodes are few, they are those of the highest entropy, with more candidates and fewer that
cost nothing. Responses had a tenth of the length that the context allowed, and half of a
`--max-tokens` that somebody chose (0.4 to 0.6 at 40 and 60 tokens).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from gradalign.config import ScoreConfig
from gradalign.planning.calibration import Calibration, allowed_continuations
from gradalign.planning.figures import Figures, Times
from gradalign.planning.work import Work
from gradalign.stages.base import Resolved, Run
from gradalign.stages.branch.stage import Branch
from gradalign.stages.branch.target import CAP
from gradalign.stages.distributions import StudentPositions
from gradalign.stages.sample import Sample

Basis = Literal["typical", "probe", "begun", "run"]

FREE_LENGTH = 0.1
CHOSEN_LENGTH = 0.5
"""Likely response by the bound, where nobody chose it, and where --max-tokens did."""

DENSE = 0.5
"""Nodes per token from which on most of them are sure."""

CANDIDATES = {True: 1.8, False: 2.3}
ROLLOUTS = {True: 0.71, False: 1.55}
"""Per node, and per node and --continuations, by whether nodes are dense."""

WORDS = 1000
WORD_CANDIDATES, WORD_ROLLOUTS = 4.5, 3.0
"""The same where nodes are few and a vocabulary of so many tokens leaves more to say: nearer to the
second of the real models, the one that can do its task."""

ROLLOUT_LENGTH = 0.25
ROLLOUT_LENGTH_FEW = 0.35
WORD_ROLLOUT_LENGTH = 0.6
FEW_NODES = 6
"""Likely rollout by the likely response; longer where few nodes are chosen, which come early, and
where a token off the spine leads to other words."""

START = 0.5
"""Where a rollout begins in a response, likely."""

PROBED_ROLLOUTS = 0.87
"""Of a probe's figures: it allows every rollout (8,744 were made where 10,020 were allowed)."""

DISK = 0.45
"""Files by the uncompressed tables (13.4 MiB of 29.3 MiB)."""

SPREAD: dict[Basis, float] = {"typical": 2.0, "probe": 1.25, "begun": 1.25, "run": 1.0}
TIME_SPREAD: dict[Basis, float] = {"typical": 3.0, "probe": 2.0, "begun": 1.5, "run": 1.0}
"""Likely by the least and the most that would not surprise."""

FILE_BYTES = 10_000
FILES, TEACHER_FILES = 14, 6
"""Least size of a table's file, and files of a shard: as such, and for each teacher."""


@dataclass(frozen=True)
class Likely:
    """What a run will likely come to.

    Attributes:
        basis: `typical` ratios of past runs, a `probe` of this one, what was counted so far of the
            run that was `begun` in the output folder, or what the finished `run` there came to.
        figures: counts.
        seconds: wall time, over all workers.
        rollouts_range: targeted rollouts, the least and the most that would not surprise.
        seconds_range: the same of the total time, None where nothing is known of it.
    """

    basis: Basis
    figures: Figures
    seconds: Times
    rollouts_range: tuple[int, int]
    seconds_range: tuple[float, float] | None


def typical(config: ScoreConfig, resolved: Resolved, bound: Calibration) -> Calibration:
    """Take typical ratios for counts and lengths, and the speeds that the bounds rest on."""
    longest = resolved.max_tokens
    share = FREE_LENGTH if config.max_tokens is None else CHOSEN_LENGTH
    length = max(longest * share, 1.0)
    per_spine = length if config.node_sampler == "all" else min(config.nodes, length)
    nodes = config.num_rollouts * per_spine
    dense = per_spine >= DENSE * length
    candidates, rollouts = CANDIDATES[dense], ROLLOUTS[dense]
    rollout_length = ROLLOUT_LENGTH_FEW if per_spine < FEW_NODES else ROLLOUT_LENGTH
    if resolved.vocab_size >= WORDS and not dense:
        candidates, rollouts = WORD_CANDIDATES, WORD_ROLLOUTS
        rollout_length = WORD_ROLLOUT_LENGTH
    open_branches = nodes * rollouts / PROBED_ROLLOUTS
    allowed = allowed_continuations(config, open_branches) / _most_rounds(config)
    return replace(
        bound,
        response_tokens=length,
        nodes=nodes,
        branches=min(nodes * candidates, bound.branches),
        continuations=min(PROBED_ROLLOUTS * allowed, bound.continuations),
        continuation_start=length * START,
        continuation_tokens=length * rollout_length,
    )


def probed(config: ScoreConfig, measured: Calibration) -> Calibration:
    """Take a probe's figures, and of the rollouts that it allows those that are made."""
    made = PROBED_ROLLOUTS * measured.continuations / _most_rounds(config)
    return replace(measured, continuations=made)


def seen(work: Work, stages: Mapping[str, Mapping[str, Any]], base: Calibration) -> Calibration:
    """Take from an unfinished run's record what its stages have counted so far.

    Args:
        work: of the run, whose folder is looked at, as it is planned.
        stages: `stages` of its run.json.
        base: for what has not been counted.
    """
    run, found = work.run, base
    sampled = stages.get(Sample.name, {}).get("counts", {})
    if sampled.get("spines"):
        found = replace(found, response_tokens=sampled["spine_tokens"] / sampled["spines"])
        chosen = stages.get(StudentPositions.name, {}).get("counts", {}).get("nodes")
        if chosen and all(StudentPositions().done(run, shard) for shard in run.shards()):
            found = replace(found, nodes=chosen / sampled["spines"] * run.config.num_rollouts)
    branched = stages.get(Branch.name, {})
    counts = branched.get("counts", {})
    if counts.get("continuations"):
        there = sum(Branch().done(run, shard) for shard in run.shards()) / len(run.shards())
        questions = max(there * work.figures.questions, 1e-9)
        working = branched["seconds"] - branched.get("opening_seconds", 0.0)
        done = replace(
            work,
            figures=replace(
                work.figures,
                questions=math.ceil(questions),
                continuations=counts["continuations"],
                continuation_tokens=counts["continuation_tokens"],
            ),
        )
        found = replace(
            found,
            branches=counts["branches"] / questions,
            continuations=counts["continuations"] / questions,
            continuation_tokens=counts["continuation_tokens"] / counts["continuations"],
            drawing=base.drawing and base.drawing.measured(done.load(Branch()), working),
        )
    return found


def _most_rounds(config: ScoreConfig) -> int:
    """Return by how much --target-se may multiply the rollouts; likely it does not."""
    return CAP if config.target_se is not None and config.budget is None else 1


def likely_disk(run: Run, uncompressed: float, questions: int) -> int:
    """Return the likely size of the files of tables that would take so much uncompressed."""
    shards = math.ceil(questions / run.config.shard_size)
    files = shards * (FILES + TEACHER_FILES * len(run.teachers))
    return round(DISK * uncompressed + files * FILE_BYTES)


def around(figures: Figures, seconds: Times, basis: Basis, bound: Figures) -> Likely:
    """Put a range around likely figures; rollouts are never more than their bound."""
    made, time = figures.continuations, seconds.total
    return Likely(
        basis=basis,
        figures=figures,
        seconds=seconds,
        rollouts_range=(
            round(made / SPREAD[basis]),
            max(made, min(round(made * SPREAD[basis]), bound.continuations)),
        ),
        seconds_range=(
            None
            if time is None
            else (round(time / TIME_SPREAD[basis], 1), round(time * TIME_SPREAD[basis], 1))
        ),
    )

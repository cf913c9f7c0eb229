"""Can a teacher go on from what the student began?

Source: "The Many Faces of On-Policy Distillation" (arXiv 2605.11182). On-policy distillation
asks the teacher for targets after prefixes that it would not have written. Whether it knows what
to do there is measured by letting it continue from prefixes of several depths, against from
scratch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from gradalign.diagnostics.base import (
    SMALL,
    Advice,
    Consequence,
    Diagnostic,
    Figures,
)
from gradalign.diagnostics.collector import Collector, FigureKey, questions_of
from gradalign.estimates import Estimate
from gradalign.stages.base import Run, Stage
from gradalign.stages.prefix import TABLE, ContinuePrefixes
from gradalign.store.splits import outcome_splits

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Transitions:
    """What a prefix does to the outcome, over all pairs (from scratch, continued).

    Attributes:
        right_to_wrong: share of pairs that are right from scratch and wrong continued, [...].
        wrong_to_right: the other way round, [...]. Their difference is the drop in success.
    """

    right_to_wrong: Floats
    wrong_to_right: Floats


def transitions(scratch: npt.ArrayLike, continued: npt.ArrayLike) -> Transitions:
    """Count changes of outcome, the two being drawn independently.

    Args:
        scratch: success rate from scratch, in [0, 1], [...].
        continued: success rate from the prefix, in [0, 1], same shape.

    Raises:
        ValueError: shapes differ.
    """
    a, b = np.asarray(scratch, dtype=np.float64), np.asarray(continued, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"scratch and continued must have one shape, got {a.shape}, {b.shape}")
    return Transitions(a * (1.0 - b), (1.0 - a) * b)


def collect(run: Run, shard: str, into: Collector) -> None:
    """Add success by depth, against from scratch and against the student at the same depth."""
    spines = run.folder.read_table("spines", shard).to_pandas()
    names = [name for name in run.folder.files(TABLE) if name.startswith(f"{shard}-")]
    if not names:
        return
    frame = pd.concat([run.folder.read_table(TABLE, n).to_pandas() for n in names])
    for name in ("question_id", "spine_id", "teacher"):
        frame[name] = frame[name].astype(str)
    frame["valid"] = frame["valid"].astype(np.float64)
    per_spine = frame.groupby(["teacher", "depth", "question_id", "spine_id"], as_index=False).agg(
        reward=("reward", "mean"), valid=("valid", "mean"), correct=("correct", "first")
    )
    own = per_spine[per_spine["teacher"] == ""].set_index(["spine_id", "depth"])["reward"]
    _collect_own_start(spines, into)
    for teacher, rows in per_spine.groupby("teacher", sort=True):
        scratch = _from_scratch(str(teacher), rows, spines)
        for depth, part in rows.groupby("depth", sort=True):
            question, splits = questions_of(part), outcome_splits(part["correct"])
            before = part["spine_id"].map(scratch).to_numpy(dtype=np.float64)
            after = part["reward"].to_numpy(dtype=np.float64)

            def key(name: str, who: str = str(teacher), at: float = float(str(depth))) -> FigureKey:
                return FigureKey("prefix", who, name, f"depth={at:g}")

            into.mean(key("success"), question, after, splits)
            into.mean(key("validity"), question, part["valid"].to_numpy(np.float64), splits)
            if depth == 0:
                continue
            into.mean(key("drop"), question, before - after, splits)
            changed = transitions(before, after)
            into.mean(key("right_to_wrong"), question, changed.right_to_wrong, splits)
            into.mean(key("wrong_to_right"), question, changed.wrong_to_right, splits)
            if teacher:
                index = pd.MultiIndex.from_arrays([part["spine_id"], part["depth"]])
                theirs = own.reindex(index).to_numpy(dtype=np.float64)
                into.mean(key("edge"), question, after - theirs, splits)


def _collect_own_start(spines: pd.DataFrame, into: Collector) -> None:
    """Add the student's success and validity from scratch: its spines are its responses so."""
    question, splits = questions_of(spines), outcome_splits(spines["correct"])
    stopped = spines["finish_reason"].astype(str).to_numpy() == "stop"
    valid = stopped & (spines["verifier_error"].astype(str).to_numpy() == "")
    for name, value in (("success", spines["reward"]), ("validity", valid)):
        key = FigureKey("prefix", "", name, "depth=0")
        into.mean(key, question, np.asarray(value, dtype=np.float64), splits)


def _from_scratch(teacher: str, rows: pd.DataFrame, spines: pd.DataFrame) -> dict[str, float]:
    """Return, per spine, the success rate from scratch on its question.

    For the student it is that of the question's other spines: a spine's own outcome is not
    independent of what follows its prefix.
    """
    if teacher:
        start = rows[rows["depth"] == 0]
        rate = start.groupby("question_id")["reward"].mean()
        return dict(zip(rows["spine_id"], rows["question_id"].map(rate), strict=True))
    found: dict[str, float] = {}
    for _, group in spines.groupby("question_id", observed=True):
        reward = group["reward"].to_numpy(dtype=np.float64)
        known = ~np.isnan(reward)
        with np.errstate(invalid="ignore"):
            others = (np.nansum(reward) - np.nan_to_num(reward)) / (known.sum() - known)
        found.update(zip(group["spine_id"].astype(str), others.tolist(), strict=True))
    return found


def stages(run: Run) -> list[Stage]:
    """Return the sampling that this diagnostic needs: the student's, then each checkpoint's."""
    return [
        ContinuePrefixes(run.config.student, ()),
        *(
            ContinuePrefixes(model, group)
            for model, group in run.by_model(run.named_teachers).items()
        ),
    ]


def advise(teacher: str, figures: Figures) -> dict[FigureKey, Advice]:
    """Say it of the deepest prefix; the student is compared with itself, and hears nothing."""
    drop = figures.numbered("prefix", teacher, "drop")
    if not drop or not teacher:
        return {}
    key = FigureKey("prefix", teacher, "drop", f"depth={max(drop):g}")
    return {key: prefix_advice(drop, figures.numbered("prefix", teacher, "edge"))}


def prefix_advice(drop: Mapping[float, Estimate], edge: Mapping[float, Estimate]) -> Advice:
    """Say whether a teacher can be trusted after the student's prefixes.

    Args:
        drop: success from scratch less success from a prefix, by depth.
        edge: success from a prefix less the student's own from the same prefix, by depth.
    """
    if edge and all(value.negative for value in edge.values()):
        return Advice(
            "The teacher does worse than the student itself from the student's prefixes, at every "
            "depth: do not distill from it on them.",
            Consequence.CHANGE_TEACHER,
        )
    lost = [depth for depth, value in drop.items() if value.positive and value.value > SMALL]
    if not lost:
        if all(value.high < 2 * SMALL for value in drop.values()):
            return Advice(
                "The teacher goes on from the student's prefixes as well as from scratch.",
                Consequence.NOTHING,
            )
        return Advice(
            "No loss after the student's prefixes is sure, and none is ruled out: score more "
            "questions or spines.",
            Consequence.MORE_DATA,
        )
    deepest = max(lost)
    beaten = [depth for depth, value in edge.items() if not value.positive]
    text = (
        f"The teacher loses {drop[deepest].value:.0%} of success after {deepest:.0%} of a student "
        "response: it was not made for such prefixes. "
    )
    if beaten:
        return Advice(
            f"{text}From {min(beaten):.0%} on it is not surely better than the student there: "
            "limit the loss to what comes before, or let the teacher begin the responses.",
            Consequence.CHANGE_LOSS,
        )
    return Advice(
        f"{text}It still beats the student there, so its targets are worth following.",
        Consequence.NOTHING,
    )


DIAGNOSTIC = Diagnostic(collect, advise, stages=stages)

"""From the tables of each mechanism to the figures of the diagnostics' summary."""

from __future__ import annotations

import numpy as np
import pandas as pd

from gradalign.alignment import mean_of_sums
from gradalign.diagnostics.contexts_stage import TABLE as CONTEXTS_TABLE
from gradalign.diagnostics.horizon import imbalance, noise_ratio, root_ratio
from gradalign.diagnostics.horizon_stage import TABLE as HORIZON_TABLE
from gradalign.diagnostics.prefixes import transitions
from gradalign.diagnostics.sums import (
    Bools,
    Collector,
    Floats,
    Key,
    pooled_columns,
    pooled_difference,
    questions_of,
)
from gradalign.diagnostics.topk import FORMS
from gradalign.diagnostics.topk_stage import TABLE as TOPK_TABLE
from gradalign.rounding import pass_error
from gradalign.stages.base import Run, teacher_file
from gradalign.stages.prefix import TABLE as PREFIX_TABLE
from gradalign.store.splits import QUESTION, outcome_splits, position_splits

OVERLAP = (
    "overlap_ratio",
    "overlap_mass_student",
    "overlap_mass_teacher",
    "overlap_advantage",
    "overlap_advantage_verl",
    "entropy_gap",
)


def collect_tokens(run: Run, shard: str, special: list[int], into: Collector) -> None:
    """Add overlap, log-probability gap and imbalance at every position of every spine."""
    correct = run.folder.read_table("spines", shard).to_pandas()
    is_correct = dict(zip(correct["spine_id"].astype(str), correct["correct"], strict=True))
    length = dict(zip(correct["spine_id"].astype(str), correct["num_tokens"], strict=True))
    for teacher in run.teachers:
        frame = run.folder.read_table("tokens", teacher_file(shard, teacher.label)).to_pandas()
        spine = frame["spine_id"].astype(str)
        last = np.maximum(spine.map(length).to_numpy(dtype=np.float64) - 1, 1)
        splits = {
            **outcome_splits(spine.map(is_correct).to_numpy()),
            **position_splits(frame["position"].to_numpy() / last),
        }
        question = questions_of(frame)
        frame["entropy_gap"] = np.abs(frame["teacher_entropy"] - frame["student_entropy"])
        for name in OVERLAP:
            value = frame[name].to_numpy(dtype=np.float64)
            into.mean(Key("overlap", teacher.label, name), question, value, splits)
        gap = (frame["teacher_logprob"] - frame["student_logprob"]).to_numpy(dtype=np.float64)
        # Where both are nearly certain the sign of the gap is that of a rounding error.
        error = pass_error(frame["student_logprob"].to_numpy())
        negative = imbalance(np.where(np.abs(gap) <= error, 0.0, gap)).astype(np.float64)
        into.mean(Key("horizon", teacher.label, "negative_share"), question, negative, splits)
        into.mean(Key("horizon", teacher.label, "log_prob_gap"), question, gap, splits)
        odd = np.isin(frame["token_id"].to_numpy(), special)
        for variant, kept in (("special tokens", odd), ("other tokens", ~odd)):
            key = Key("horizon", teacher.label, "log_prob_gap", variant)
            into.mean(key, question, gap, {"all": kept})


def _of_nodes(run: Run, shard: str, table: str) -> pd.DataFrame:
    """Read a table of nodes, without those at special tokens if the run leaves them out."""
    frame: pd.DataFrame = run.folder.read_table(table, shard).to_pandas()
    return frame[_counts(run, shard, frame)]


def _counts(run: Run, shard: str, frame: pd.DataFrame) -> Bools:
    """Return which rows are of nodes that count in the run's summary."""
    if not run.config.mask_special:
        return np.ones(len(frame), dtype=np.bool_)
    nodes = run.folder.read_table("nodes", shard).to_pandas()
    special = nodes.loc[nodes["special"].to_numpy(dtype=np.bool_), "node_id"].astype(str)
    return np.asarray(~frame["node_id"].astype(str).isin(special).to_numpy(dtype=np.bool_))


def collect_topk(run: Run, shard: str, into: Collector) -> None:
    """Add what each truncated form does to the direction, and its alignment against the full."""
    frame = _of_nodes(run, shard, TOPK_TABLE)
    for teacher, of_teacher in frame.groupby("teacher", sort=False, observed=True):
        by_case = {
            (int(str(k)), str(form)): part
            for (k, form), part in of_teacher.groupby(["k", "form"], sort=False, observed=True)
        }
        full = by_case[0, "full"]
        for (k, form), part in by_case.items():
            variant = f"k={k},{form}" if k else form
            question, splits = questions_of(part), outcome_splits(part["correct"])
            key = Key("topk", str(teacher), "alignment", variant)
            into.pooled(key, part, splits)
            if form not in FORMS:
                continue
            both = np.column_stack([pooled_columns(part), pooled_columns(full)])
            gain = Key("topk", str(teacher), "alignment_gain", variant)
            into.add(gain, pooled_difference, question, both, splits)
            weight = part["weight"].to_numpy(dtype=np.float64)
            norm2 = weight * part["full_norm2"].to_numpy(dtype=np.float64)
            cosine, ratio, distance = (
                np.nan_to_num(part[name].to_numpy(dtype=np.float64))
                for name in ("cosine_to_full", "norm_ratio", "distance")
            )
            products = np.column_stack([cosine * ratio * norm2, ratio**2 * norm2, norm2])
            key = Key("topk", str(teacher), "cosine_to_full", variant)
            into.add(key, _cosine_of_sums, question, products, {"all": splits["all"]})
            for name, value in (("norm_ratio", ratio), ("distance", distance)):
                squares = np.column_stack([value**2 * norm2, norm2])
                key = Key("topk", str(teacher), name, variant)
                into.add(key, root_ratio, question, squares, {"all": splits["all"]})


def _cosine_of_sums(sums: Floats) -> Floats:
    """Cosine of long vectors from sums (dot, norm2, norm2), [..., 3] -> [...]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / np.sqrt(sums[..., 1] * sums[..., 2]))


def collect_contexts(run: Run, shard: str, into: Collector) -> None:
    """Add consensus, conflict and the share of a common rule, overall and per question."""
    frame = _of_nodes(run, shard, CONTEXTS_TABLE)
    for (teacher, kind), part in frame.groupby(["teacher", "kind"], sort=False, observed=True):
        question, splits = questions_of(part), outcome_splits(part["correct"])
        each = {QUESTION + name: question == name for name in np.unique(question.astype(str))}
        weight = part["weight"].to_numpy(dtype=np.float64)

        def key(diagnostic: str, model: str = str(teacher), of: str = str(kind)) -> Key:
            return Key("contexts", model, diagnostic, f"{of} contexts")

        for name in ("conflict", "divergence", "shared_kl"):
            value = part[name].to_numpy(dtype=np.float64)
            into.mean(key(name), question, value, {**splits, **each}, weight)
        parts = part[["shared_kl", "mean_kl"]].to_numpy(dtype=np.float64) * weight[:, None]
        into.add(key("shared_share"), mean_of_sums, question, parts, {**splits, **each})
        into.pooled(key("alignment"), part, {**splits, **each})


def collect_horizon(run: Run, shard: str, into: Collector) -> None:
    """Add alignment, bias and noise for every discount, and what special tokens do."""
    nodes = run.folder.read_table("nodes", shard).to_pandas()
    relative = dict(zip(nodes["node_id"].astype(str), nodes["relative_position"], strict=True))
    every = run.folder.read_table(HORIZON_TABLE, shard).to_pandas()
    at_token_level = every[every["gamma"] == 0]
    for teacher, part in at_token_level.groupby("teacher", sort=False, observed=True):
        _collect_special(str(teacher), part, into)
    frame = every[_counts(run, shard, every)]
    for teacher, of_teacher in frame.groupby("teacher", sort=False, observed=True):
        by_gamma = {float(g): part for g, part in of_teacher.groupby("gamma", sort=True)}
        first = by_gamma[0.0]
        for gamma, part in by_gamma.items():
            variant = f"gamma={gamma:g}"
            question = questions_of(part)
            at = part["node_id"].astype(str).map(relative).to_numpy(dtype=np.float64)
            splits = {**outcome_splits(part["correct"]), **position_splits(at)}
            whole = {"all": splits["all"]}
            into.pooled(Key("horizon", str(teacher), "alignment", variant), part, splits)
            weight = part["weight"].to_numpy(dtype=np.float64)[:, None]
            noise = part[["variance", "method_norm2"]].to_numpy(dtype=np.float64) * weight
            key = Key("horizon", str(teacher), "noise_ratio", variant)
            into.add(key, noise_ratio, question, noise, whole)
            if len(by_gamma) > 1:
                bias = part[["bias2", "sequence_norm2"]].to_numpy(dtype=np.float64) * weight
                key = Key("horizon", str(teacher), "relative_bias", variant)
                into.add(key, root_ratio, question, bias, whole)
            if gamma > 0:
                both = np.column_stack([pooled_columns(part), pooled_columns(first)])
                key = Key("horizon", str(teacher), "alignment_gain", variant)
                into.add(key, pooled_difference, question, both, whole)


def _collect_special(teacher: str, part: pd.DataFrame, into: Collector) -> None:
    """Add the alignment without nodes whose drawn token is special, and what they cost."""
    question, columns = questions_of(part), pooled_columns(part)
    ordinary = columns * ~part["special"].to_numpy(dtype=np.bool_)[:, None]
    whole = {"all": np.ones(len(part), dtype=np.bool_)}
    into.pooled(
        Key("horizon", teacher, "alignment", "gamma=0,without special tokens"),
        part,
        {"all": ~part["special"].to_numpy(dtype=np.bool_)},
    )
    key = Key("horizon", teacher, "alignment_gain", "gamma=0,without special tokens")
    into.add(key, pooled_difference, question, np.column_stack([ordinary, columns]), whole)


def collect_prefix(run: Run, shard: str, into: Collector) -> None:
    """Add success by depth, against from scratch and against the student at the same depth."""
    spines = run.folder.read_table("spines", shard).to_pandas()
    names = [name for name in run.folder.files(PREFIX_TABLE) if name.startswith(f"{shard}-")]
    if not names:
        return
    frame = pd.concat([run.folder.read_table(PREFIX_TABLE, n).to_pandas() for n in names])
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

            def key(name: str, who: str = str(teacher), at: float = float(str(depth))) -> Key:
                return Key("prefix", who, name, f"depth={at:g}")

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
        key = Key("prefix", "", name, "depth=0")
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

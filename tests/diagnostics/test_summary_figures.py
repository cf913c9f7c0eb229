"""Every figure of the diagnostics' summary, worked out anew by loops over the stored tables."""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest

from gradalign.pipeline import diagnose_run

pytestmark = pytest.mark.slow

QUARTERS = ("0-25%", "25-50%", "50-75%", "75-100%")


@pytest.fixture(scope="module")
def value_of(informed_run):
    return reader(informed_run)


@pytest.fixture(scope="module")
def prefix_value_of(prefix_run):
    return reader(prefix_run)


def reader(report):
    frame = report.table("diagnostics_summary")
    names = ("mechanism", "teacher", "diagnostic", "variant", "split")
    keys = zip(*(frame[name].astype(str) for name in names), strict=True)
    values = dict(zip(keys, frame["value"], strict=True))

    def value_of(mechanism, teacher, diagnostic, variant="", split="all"):
        return values[mechanism, teacher, diagnostic, variant, split]

    return value_of


def rows_of(frame, **wanted):
    for name, value in wanted.items():
        frame = frame[frame[name].astype(str) == value]
    assert len(frame)
    return frame.to_dict("records")


def pooled(rows):
    dot, ideal, method = (
        sum(row["weight"] * row[name] for row in rows)
        for name in ("dot", "ideal_norm2", "method_norm2")
    )
    return dot / math.sqrt(ideal * method)


@pytest.mark.parametrize("teacher", ["demo:strong", "self+wrong-answer"])
def test_truncated_losses(informed_run, value_of, teacher):
    """The nodes' directions, of lengths a and b, laid end to end into one long vector each."""
    table = informed_run.table("diagnostics_topk")
    table = table.assign(case=table["k"].astype(str) + table["form"].astype(str))
    full = {row["node_id"]: row for row in rows_of(table, teacher=teacher, form="full")}
    for k in (1, 4, 16, 64):
        for form in ("biased", "stop_gradient", "renorm"):
            rows = rows_of(table, teacher=teacher, case=f"{k}{form}")
            assert len(rows) == len(full)
            inner = own = whole = gap = 0.0
            for row in rows:
                b = math.sqrt(row["full_norm2"])
                a = b * np.nan_to_num(row["norm_ratio"])
                inner += row["weight"] * a * b * np.nan_to_num(row["cosine_to_full"])
                own += row["weight"] * a**2
                whole += row["weight"] * b**2
                gap += row["weight"] * (b * np.nan_to_num(row["distance"])) ** 2
            variant = f"k={k},{form}"
            found = value_of("topk", teacher, "norm_ratio", variant)
            assert found == pytest.approx(math.sqrt(own / whole), abs=1e-9)
            found = value_of("topk", teacher, "distance", variant)
            assert found == pytest.approx(math.sqrt(gap / whole), abs=1e-9)
            found = value_of("topk", teacher, "cosine_to_full", variant)
            if own == 0:  # renormalised on one token
                assert (k, form) == (1, "renorm")
                assert np.isnan(found)
                continue
            assert found == pytest.approx(inner / math.sqrt(own * whole), abs=1e-9)
            for split, kept in (("all", None), ("correct", True), ("incorrect", False)):
                mine = [row for row in rows if kept is None or row["correct"] == kept]
                theirs = [full[row["node_id"]] for row in mine]
                found = value_of("topk", teacher, "alignment", variant, split)
                assert found == pytest.approx(pooled(mine), abs=1e-9)
                found = value_of("topk", teacher, "alignment_gain", variant, split)
                assert found == pytest.approx(pooled(mine) - pooled(theirs), abs=1e-9)


@pytest.mark.parametrize("teacher", ["demo:strong", "self+answer"])
def test_token_level_and_sequence_level(informed_run, value_of, teacher):
    table = informed_run.table("diagnostics_horizon")
    place = informed_run.nodes.set_index("node_id")["relative_position"].to_dict()
    first = rows_of(table[table["gamma"] == 0], teacher=teacher)
    for gamma in (0, 0.5, 0.9, 1):
        rows = rows_of(table[np.isclose(table["gamma"], gamma)], teacher=teacher)
        variant = f"gamma={gamma:g}"
        total = {
            name: sum(row["weight"] * row[name] for row in rows)
            for name in ("variance", "method_norm2", "bias2", "sequence_norm2")
        }
        found = value_of("horizon", teacher, "noise_ratio", variant)
        assert found == pytest.approx(total["variance"] / total["method_norm2"], abs=1e-9)
        wanted = math.sqrt(max(total["bias2"], 0) / total["sequence_norm2"])
        found = value_of("horizon", teacher, "relative_bias", variant)
        assert found == pytest.approx(wanted, abs=1e-9)
        if gamma:
            found = value_of("horizon", teacher, "alignment_gain", variant)
            assert found == pytest.approx(pooled(rows) - pooled(first), abs=1e-9)
        for quarter, name in enumerate(QUARTERS):
            here = [row for row in rows if min(int(place[row["node_id"]] * 4), 3) == quarter]
            found = value_of("horizon", teacher, "alignment", variant, f"position:{name}")
            assert found == pytest.approx(pooled(here), abs=1e-9)


def test_special_tokens(informed_run, tmp_path):
    """As if `=` were a token of the template: the bundled one's own are where nothing depends."""
    folder = tmp_path / "run"
    shutil.copytree(informed_run.path, folder)
    log = json.loads((folder / "run.json").read_text())
    tokens = informed_run.tokens
    (equals,) = set(tokens.loc[tokens["token"].astype(str) == "=", "token_id"])
    log["resolved"]["special_token_ids"].append(int(equals))
    (folder / "run.json").write_text(json.dumps(log))
    shutil.rmtree(folder / "diagnostics_horizon")
    report = diagnose_run(str(folder), ["horizon"])
    table = report.table("diagnostics_horizon")
    value_of = reader(report)
    for teacher in ("demo:strong", "self+answer"):
        rows = rows_of(table[table["gamma"] == 0], teacher=teacher)
        drawn = report.nodes.set_index("node_id")["sampled_token_id"]
        ordinary = [row for row in rows if drawn[row["node_id"]] != equals]
        assert [row for row in rows if not row["special"]] == ordinary
        assert 0 < len(ordinary) < len(rows)
        variant = "gamma=0,without special tokens"
        found = value_of("horizon", teacher, "alignment", variant)
        assert found == pytest.approx(pooled(ordinary), abs=1e-9)
        found = value_of("horizon", teacher, "alignment_gain", variant)
        assert found == pytest.approx(pooled(ordinary) - pooled(rows), abs=1e-9)
        assert found != 0
        gaps = {True: [], False: []}
        for row in rows_of(tokens, teacher=teacher):
            special = row["token_id"] in {equals, *log["resolved"]["stop_token_ids"]}
            gap = float(row["teacher_logprob"]) - float(row["student_logprob"])
            gaps[special].append(gap)
        for special, variant in ((True, "special tokens"), (False, "other tokens")):
            found = value_of("horizon", teacher, "log_prob_gap", variant)
            assert found == pytest.approx(sum(gaps[special]) / len(gaps[special]), abs=1e-6)


def test_overlap_by_quarter_and_outcome(informed_run, value_of):
    spines = informed_run.spines.set_index("spine_id")
    rows = rows_of(informed_run.tokens, teacher="self+wrong-answer")
    names = ("overlap_ratio", "overlap_mass_student", "overlap_mass_teacher")
    for quarter, name in enumerate(QUARTERS):
        here = [
            row
            for row in rows
            if min(int(4 * row["position"] / (spines.at[row["spine_id"], "num_tokens"] - 1)), 3)
            == quarter
        ]
        for column in (*names, "overlap_advantage", "overlap_advantage_verl"):
            wanted = sum(float(row[column]) for row in here) / len(here)
            split = f"position:{name}"
            found = value_of("overlap", "self+wrong-answer", column, split=split)
            assert found == pytest.approx(wanted, abs=1e-9)
    for split, kept in (("correct", True), ("incorrect", False)):
        gaps = [
            abs(float(row["teacher_entropy"]) - float(row["student_entropy"]))
            for row in rows
            if spines.at[row["spine_id"], "correct"] == kept
        ]
        found = value_of("overlap", "self+wrong-answer", "entropy_gap", split=split)
        assert found == pytest.approx(sum(gaps) / len(gaps), abs=1e-6)


def test_consensus(informed_run, value_of):
    rows = rows_of(informed_run.table("diagnostics_contexts"), teacher="demo:student", kind="all")
    for split, kept in (("all", None), ("correct", True), ("incorrect", False)):
        here = [row for row in rows if kept is None or row["correct"] == kept]
        weight = sum(row["weight"] for row in here)
        for name in ("conflict", "divergence", "shared_kl"):
            wanted = sum(row["weight"] * row[name] for row in here) / weight
            found = value_of("contexts", "demo:student", name, "all contexts", split)
            assert found == pytest.approx(wanted, abs=1e-9)
        found = value_of("contexts", "demo:student", "alignment", "all contexts", split)
        assert found == pytest.approx(pooled(here), abs=1e-9)


@pytest.mark.parametrize("teacher", ["", "demo:strong"])
def test_prefixes(prefix_run, prefix_value_of, teacher):
    """Over all pairs of outcomes: of a spine from a prefix, and of its question from scratch."""
    table, spines = prefix_run.table("diagnostics_prefix"), prefix_run.spines.to_dict("records")
    drawn, own = {}, {}
    for row in table.to_dict("records"):
        which = drawn if row["teacher"] == teacher else own if row["teacher"] == "" else {}
        which.setdefault((row["spine_id"], round(row["depth"], 2)), []).append(row)
    own = drawn if teacher == "" else own
    scratch = {}
    for spine in spines:
        same = [other for other in spines if other["question_id"] == spine["question_id"]]
        scratch[spine["spine_id"]] = (
            [row["reward"] for other in same for row in drawn[other["spine_id"], 0.0]]
            if teacher
            else [other["reward"] for other in same if other["spine_id"] != spine["spine_id"]]
        )
    for depth in (0.25, 0.5, 0.75):
        for split, kept in (("all", None), ("incorrect", False)):
            per_spine = {name: [] for name in ("success", "validity", "drop", "edge")}
            changes = {"right_to_wrong": [], "wrong_to_right": []}
            for spine in spines:
                if kept is not None and spine["correct"] != kept:
                    continue
                name = spine["spine_id"]
                after = [row["reward"] for row in drawn[name, depth]]
                before = scratch[name]
                success = sum(after) / len(after)
                per_spine["success"].append(success)
                per_spine["validity"].append(np.mean([row["valid"] for row in drawn[name, depth]]))
                per_spine["drop"].append(sum(before) / len(before) - success)
                theirs = [row["reward"] for row in own[name, depth]]
                per_spine["edge"].append(success - sum(theirs) / len(theirs))
                pairs = [(a, b) for a in before for b in after]
                for change, sign in (("right_to_wrong", 1), ("wrong_to_right", -1)):
                    count = sum((a - b) * sign > 0 for a, b in pairs)
                    changes[change].append(count / len(pairs))
            for name, values in (per_spine | changes).items():
                if name == "edge" and not teacher:
                    continue
                found = prefix_value_of("prefix", teacher, name, f"depth={depth:g}", split)
                assert found == pytest.approx(sum(values) / len(values), abs=1e-9)
    # From scratch the student's responses are its spines.
    start = (
        [row for (_, at), rows in drawn.items() if at == 0 for row in rows] if teacher else spines
    )
    found = prefix_value_of("prefix", teacher, "success", "depth=0")
    assert found == pytest.approx(np.mean([row["reward"] for row in start]), abs=1e-9)
    good = [row["valid"] if teacher else row["finish_reason"] == "stop" for row in start]
    found = prefix_value_of("prefix", teacher, "validity", "depth=0")
    assert found == pytest.approx(np.mean(good), abs=1e-9)

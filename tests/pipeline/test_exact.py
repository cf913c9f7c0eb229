"""A real run on the bundled pair against exact values from enumerating the student's tree."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from exact import addition_reward, exact_values
from transformers import AutoModelForCausalLM, AutoTokenizer

from gradalign.alignment import pooled
from gradalign.alignment.gram import crossed_alignment, mixture_alignment, share_of_second
from gradalign.alignment.ideal import ideal_gradient
from gradalign.demo import model_path

SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong", "demo:weak"],
    "task": "demo:addition",
    "methods": ["gkd:beta=0", "opd", "dr_grpo", "random", "gkd:beta=0+0.5*opd", "mix:best"],
    "limit": 12,
    "num_rollouts": 2,
    "nodes": 6,
    "continuations": 12,
    "engine": "transformers",
    "seed": 3,
}


@pytest.fixture(scope="module")
def run(finished_runs):
    return finished_runs.get(**SETTINGS, allocation="uniform")


@pytest.fixture(scope="module")
def exact(run):
    """The run's branches with the exact V of each."""
    model = AutoModelForCausalLM.from_pretrained(model_path("student"), dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(model_path("student"))
    resolved = run.metadata["resolved"]
    questions = run.questions.set_index("question_id")
    spines = run.spines.set_index("spine_id")
    parts = []
    for spine_id, group in run.branches.groupby("spine_id", observed=True, sort=False):
        spine = spines.loc[spine_id]
        question = questions.loc[spine["question_id"]]
        positions = sorted(group["position"].unique())
        found = exact_values(
            model,
            question["prompt_ids"].tolist(),
            spine["token_ids"].tolist(),
            positions,
            [group.loc[group["position"] == p, "token_id"].tolist() for p in positions],
            reward=addition_reward(tokenizer, question["answer"]),
            stop_ids=resolved["stop_token_ids"],
            max_tokens=resolved["max_tokens"],
        )
        for position, values in zip(positions, found.values, strict=True):
            part = group[group["position"] == position].copy()
            part["exact"] = values
            parts.append(part)
    return pd.concat(parts)


@pytest.mark.slow
def test_standardised_errors_over_many_branches(exact):
    v, n = exact["exact"].to_numpy(), exact["num_continuations"].to_numpy()
    se = np.sqrt(np.maximum(v * (1 - v), 1e-4) / n)
    z = (exact["mean_reward"].to_numpy() - v) / se
    inside = (v > 0.005) & (v < 0.995)
    assert inside.sum() >= 200
    assert abs(z[inside].mean()) <= 0.15
    assert abs(z[inside].std() - 1) <= 0.15
    certain = np.minimum(v, 1 - v) < 1e-4
    np.testing.assert_allclose(exact["mean_reward"][certain], v[certain].round(), atol=1e-9)


@pytest.fixture(scope="module")
def truth(exact):
    """The ideal gradient from exact values, by node and token."""
    found = {}
    for node_id, group in exact.groupby("node_id", observed=True):
        ideal = ideal_gradient(group["student_prob"].to_numpy(), group["exact"].to_numpy())
        found[node_id] = dict(zip(group["token_id"], ideal, strict=True))
    return found


@pytest.mark.slow
def test_pooled_alignment_lies_in_its_interval(run, exact, truth):
    q = run.branch_teachers
    covered = checked = 0
    for teacher in SETTINGS["teachers"]:
        own = q[q["teacher"] == teacher].set_index(["node_id", "token_id"])["teacher_prob"]
        stored = run.distributions.query("teacher == @teacher").set_index("node_id")
        dots, norms, method_norms, weights = [], [], [], []
        for node_id, group in exact.groupby("node_id", observed=True):
            p = group["student_prob"].to_numpy()
            # Forward KL: Q - P over the whole vocabulary; g is nothing outside the candidates.
            q_node = np.array([own[node_id, token] for token in group["token_id"]])
            m = q_node - p
            g = p.sum() * np.array([truth[node_id][token] for token in group["token_id"]])
            at = stored.loc[node_id]
            gap = np.exp(at["teacher_logprobs"]) - np.exp(at["student_logprobs"])
            dots.append(g @ m)
            norms.append(g @ g)
            # The rest of the vocabulary counts as spread evenly.
            method_norms.append(gap @ gap + gap.sum() ** 2 / max(at["num_tail"], 1))
            at = run.nodes[run.nodes["node_id"] == node_id].iloc[0]
            weights.append(1 / at["inclusion_prob"])
        wanted = pooled(dots, norms, method_norms, weights)
        row = run.summary.query(
            "split == 'all' and method == 'gkd:beta=0' and teacher == @teacher"
        ).iloc[0]
        checked += 1
        covered += row["pooled_low"] <= wanted <= row["pooled_high"]
        assert np.isnan(row["pooled"]) or row["pooled"] == pytest.approx(wanted, abs=0.15)
    assert covered == checked == 2


@pytest.mark.slow
def test_the_ideal_direction_and_a_random_one(run, exact, truth):
    """Random directions are 0 on average; those of this run have a truth of their own."""
    rows = run.summary[run.summary["split"] == "all"].set_index("method")
    grpo = rows.loc["dr_grpo"]
    assert grpo["pooled"] == pytest.approx(1.0, abs=1e-9)
    stored = run.table("directions")
    stored = stored[stored["method"] == "random"].set_index("node_id")["direction"]
    candidates = run.branches.groupby("node_id", observed=True)["token_id"]
    kept = run.distributions.iloc[0]
    vocabulary = len(kept["token_ids"]) + kept["num_tail"]
    dots, norms, method_norms, weights = [], [], [], []
    for node_id, group in exact.groupby("node_id", observed=True):
        own = dict(zip(candidates.get_group(node_id), stored[node_id], strict=True))
        m = np.array([own[token] for token in group["token_id"]])
        g = np.array([truth[node_id][token] for token in group["token_id"]])
        g *= group["student_prob"].sum()
        length2 = m @ m + m.sum() ** 2 / (vocabulary - len(m))  # the rest is spread evenly
        at = run.nodes[run.nodes["node_id"] == node_id].iloc[0]
        for sums, value in zip((dots, norms, method_norms), (g @ m, g @ g, length2), strict=True):
            sums.append(value)
        weights.append(1 / at["inclusion_prob"])
    wanted = pooled(dots, norms, method_norms, weights)
    random = rows.loc["random"]
    assert random["pooled"] == pytest.approx(wanted, abs=0.1)
    assert abs(wanted) < 0.5


@pytest.mark.slow
def test_mixtures_lie_in_their_intervals(run, exact, truth):
    """Fixed and chosen coefficients: what exact values give, from the stored directions."""
    nodes = run.nodes.set_index("node_id")
    mass = exact.groupby("node_id", observed=True)["student_prob"].sum()
    tokens = exact.groupby("node_id", observed=True)["token_id"].apply(list)
    candidates = run.branches.groupby("node_id", observed=True)["token_id"].apply(list)
    table = run.table("directions").set_index(["teacher", "method", "node_id"])["direction"]
    lengths = run.alignment.set_index(["teacher", "method", "node_id"])["method_norm2"]
    order = {q: i for i, q in enumerate(run.questions["question_id"].astype(str))}
    summary = run.summary[run.summary["split"] == "all"].set_index(["teacher", "method"])
    grams = run.table("gram")
    products = grams.groupby(
        ["question_id", "first_teacher", "first_method", "second_teacher", "second_method"],
        observed=True,
    )["product"].sum()

    def dots(teacher, method):
        """Exact <g, m> and |g|^2 by question, with weights; and |m|^2."""
        found = np.zeros((len(order), 3))
        for node in tokens.index:
            own = dict(zip(candidates[node], table[teacher, method, node], strict=True))
            g = mass[node] * np.array([truth[node][token] for token in tokens[node]])
            m = np.array([own[token] for token in tokens[node]])
            at = nodes.loc[node]
            row = np.array([g @ m, g @ g, lengths[teacher, method, node]])
            found[order[str(at["question_id"])]] += row / at["inclusion_prob"]
        return found

    covered = checked = 0
    for teacher in SETTINGS["teachers"]:
        first, second = dots(teacher, "gkd:beta=0"), dots(teacher, "opd")
        fixed = dots(teacher, "gkd:beta=0+0.5*opd").sum(axis=0)
        cross = [products[q, teacher, "gkd:beta=0", teacher, "opd"] for q in order]
        sums = np.column_stack(
            [
                first[:, 0], second[:, 0], first[:, 2], cross, second[:, 2],
                first[:, 1], first[:, 1], first[:, 2], second[:, 2],
            ]
        )  # fmt: skip
        odd = (np.arange(len(order)) % 2 == 1)[:, None]
        wanted = {
            "gkd:beta=0+0.5*opd": fixed[0] / np.sqrt(fixed[1] * fixed[2]),
            "mix:best": crossed_alignment(
                np.concatenate([(sums * ~odd).sum(axis=0), (sums * odd).sum(axis=0)])
            ),
        }
        assert wanted["gkd:beta=0+0.5*opd"] == pytest.approx(
            mixture_alignment(sums.sum(axis=0), 0.5), abs=1e-9
        )
        for method, value in wanted.items():
            row = summary.loc[(teacher, method)]
            checked += 1
            covered += row["pooled_low"] <= value <= row["pooled_high"]
        diagnosed = run.table("diagnostics_summary")
        diagnosed = diagnosed[diagnosed["teacher"] == teacher].set_index(["diagnostic", "variant"])
        share = diagnosed.loc[("best_share", "gkd:beta=0+c*opd")]
        checked += 1
        covered += share["low"] <= share_of_second(sums.sum(axis=0)) <= share["high"]
    assert covered == checked == 6

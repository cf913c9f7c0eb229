"""Alignment in the space of the weights, of real runs."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import assert_same_tables
from scipy.stats import t as t_dist

import gradalign
from gradalign.alignment.fieller import skewed_reaches
from gradalign.analysis.weights import weights_level
from gradalign.config import ScoreConfig
from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.models import loaded_model
from gradalign.stages.base import Resolved, Run
from gradalign.store.manifest import RunLog
from gradalign.store.schema import schema

pytestmark = pytest.mark.usefixtures("exact_sketches")

SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "methods": ["gkd:beta=0", "opd", "dr_grpo"],
    "limit": 6,
    "num_rollouts": 2,
    "nodes": 8,
    "continuations": 6,
    "shard_size": 3,
    "bootstrap_resamples": 200,
    "diagnose": ["none"],
    "engine": "transformers",
    "device": "cpu",
}
LEVEL = ["weights", "weights_gain", "weights_gain_one", "weights_shared", "weights_within"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "run"
    return gradalign.score(**SETTINGS, alignment="weights", output_dir=str(folder))


def opened(report) -> Run:
    """Return a finished run for what reads its tables."""
    log = RunLog.load(report.folder)
    config = ScoreConfig.build({**log.config, "output_dir": report.path})
    return Run(config, Resolved(**log.resolved))


def main_rows(report):
    return report.summary.query("split == 'all'").set_index(["teacher", "method"])


def responses_by_hand(report, teacher, method, keep=lambda node: True):
    """Every response's gradient, from a loss whose gradient it is: [Q][R] flat vectors.

    Args:
        report: the run.
        teacher: of the arm.
        method: of the arm, or `ideal`.
        keep: which rows of the table `nodes` count.
    """
    prompts = report.questions.set_index("question_id")["prompt_ids"]
    nodes = dict(list(report.nodes.groupby("spine_id", observed=True)))
    branches = dict(list(report.branches.groupby("node_id", observed=True)))
    stored = report.table("directions")
    own = stored[(stored["teacher"] == teacher) & (stored["method"] == method)]
    direction_of = own.set_index("node_id")
    found: dict[str, list[torch.Tensor]] = {}
    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        model.requires_grad_(True)
        for spine in report.spines.itertuples():
            prompt = list(prompts[spine.question_id])
            ids = torch.tensor([[*prompt, *spine.token_ids]])
            logits = model(input_ids=ids).logits[0]
            loss = torch.zeros(())
            for node in filter(keep, nodes[spine.spine_id].itertuples()):
                tried = branches[node.node_id]
                if method == "ideal":
                    tokens = tried["token_id"].to_numpy()
                    mass = tried["student_prob"].sum()
                    values = mass * tried["ideal"].fillna(0.0).to_numpy()
                else:
                    row = direction_of.loc[node.node_id]
                    tokens = np.array([*tried["token_id"], *row["other_ids"]])
                    values = np.nan_to_num([*row["direction"], *row["other_direction"]])
                z = logits[len(prompt) + node.position - 1]
                pushed = torch.from_numpy(np.asarray(values)).float() / node.inclusion_prob
                loss = loss + z[torch.from_numpy(tokens.astype(np.int64))] @ pushed
            own = list(model.parameters())
            if not loss.requires_grad:  # no node of it counts
                loss = loss + 0.0 * logits.sum()
            gradients = torch.autograd.grad(loss, own)
            flat = torch.cat([g.flatten() for g in gradients]).double()
            found.setdefault(spine.question_id, []).append(flat)
    return list(found.values())


def test_numerators_lengths_and_variances_are_those_of_gradients_by_hand(report):
    ideal = [sum(group) / len(group) for group in responses_by_hand(report, "", "ideal")]
    responses = responses_by_hand(report, "demo:strong", "opd")
    own = [sum(group) / len(group) for group in responses]
    pairs = list(itertools.permutations(range(len(own)), 2))
    cross = np.mean([float(ideal[q] @ own[r]) for q, r in pairs])
    shared = np.mean([float(own[q] @ own[r]) for q, r in pairs])
    row = main_rows(report).loc["demo:strong", "opd"]
    assert row["weights_shared"] == pytest.approx(shared, rel=1e-3)
    assert row["weights_product"] == pytest.approx(cross, rel=1e-3)
    assert row["weights_product_low"] < row["weights_product"] < row["weights_product_high"]
    within = np.mean([float(one @ other) for one, other in responses])
    assert row["weights_between"] == pytest.approx(within - shared, rel=1e-3)
    # The rest is of this run: all positions are not nodes, and the excess is taken off at random.
    table = report.table("gradients")
    table = table.query("teacher == 'demo:strong' and method == 'opd' and split == 'all'")
    length2 = table["length2"].mean()
    for column, batch in (("weights_gain", 32), ("weights_gain_one", 1)):
        step2 = shared + (length2 - shared) / batch
        assert row[column] == pytest.approx(cross / np.sqrt(step2), rel=1e-3)
        assert row[f"{column}_low"] < row[column] < row[f"{column}_high"]


ARMS = [("demo:strong", "gkd:beta=0"), ("demo:strong", "opd"), ("", "dr_grpo")]


@pytest.mark.parametrize(("teacher", "method"), ARMS)
def test_the_columns_of_tokens_add_up_to_the_numerators(report, teacher, method):
    """Derivatives along the other questions' ideal updates, against a backward pass per arm."""
    ideal = [sum(group) / len(group) for group in responses_by_hand(report, "", "ideal")]
    own = [sum(group) / len(group) for group in responses_by_hand(report, teacher, method)]
    table = report.alignment.query(f"teacher == '{teacher}' and method == '{method}'")
    assert table["weights_dot"].notna().all()
    rollouts = SETTINGS["num_rollouts"]
    questions = table["question_id"].astype(str)
    found = (table["weight"] * table["weights_dot"]).groupby(questions).sum() / rollouts
    ids = [str(name) for name in report.questions["question_id"]]
    for q, name in enumerate(ids):
        others = [one for p, one in enumerate(ideal) if p != q]
        mean = sum(others) / len(others)
        wanted, size = float(mean @ own[q]), float(mean.norm() * own[q].norm())
        assert found.get(name, 0.0) == pytest.approx(wanted, abs=1e-3 * size)
    # Outside lies what teachers move beyond the support: little in a vocabulary of 259.
    known = table["weights_outside"].dropna()
    assert len(known) > 0
    assert known.between(0, 1e-3).all()
    mean = np.average(known, weights=table.loc[known.index, "weight"])
    assert main_rows(report).loc[(teacher, method), "weights_outside"] == pytest.approx(mean)


SPLITS = {
    "correct": lambda node: node.correct is True,
    "incorrect": lambda node: node.correct is False,
    "position:0-25%": lambda node: node.relative_position < 0.25,
    "position:75-100%": lambda node: node.relative_position >= 0.75,
}


@pytest.fixture(scope="module")
def quarters(tmp_path_factory):
    """Every position is a node: no length has noise of chosen ones."""
    folder = tmp_path_factory.mktemp("quarters") / "run"
    settings = {**SETTINGS, "node_sampler": "all", "methods": ["opd"], "weights_quarters": True}
    return gradalign.score(**settings, alignment="weights", output_dir=str(folder))


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_s_step_is_that_of_its_nodes_alone(quarters, split):
    """Its update by hand: other nodes left out of the loss; the ideal update stays whole."""
    ideal = [sum(group) / 2 for group in responses_by_hand(quarters, "", "ideal")]
    by_hand = responses_by_hand(quarters, "demo:strong", "opd", SPLITS[split])
    own = [sum(group) / 2 for group in by_hand]
    pairs = list(itertools.permutations(range(len(own)), 2))
    cross = np.mean([float(ideal[q] @ own[r]) for q, r in pairs])
    shared = np.mean([float(own[q] @ own[r]) for q, r in pairs])
    length2 = np.mean([float(one @ one) for one in own])
    found = weights_level(opened(quarters))[Arm("demo:strong", "opd"), split]
    assert found.shared.value == pytest.approx(shared, rel=1e-3)
    row = quarters.summary.query(f"split == '{split}' and method == 'opd'").iloc[0]
    for number, batch in (("gain", 32), ("gain_one", 1)):
        gain, step2 = getattr(found, number), shared + (length2 - shared) / batch
        if step2 > 0:
            assert gain.value == pytest.approx(cross / np.sqrt(step2), rel=1e-3)
            assert gain.low < gain.value < gain.high
            # Of a part in few questions the table has the interval alone.
            ends = [row[f"weights_{number}_low"], row[f"weights_{number}_high"]]
            assert ends == pytest.approx([gain.low, gain.high])
        else:
            assert np.isnan(gain.value)
        assert np.isnan(row[f"weights_{number}"])


def test_splits_of_one_kind_add_up(quarters):
    """Sketches and columns are sums over nodes, so those of the parts are that of the whole."""
    table = quarters.table("gradients").query("method == 'opd'")
    sketch = {
        split: np.stack(list(group.set_index("question_id")["sketch"].sort_index()))
        for split, group in table.groupby("split", observed=True)
    }
    for parts in (("correct", "incorrect"), [name for name in sketch if "position" in name]):
        np.testing.assert_allclose(
            sum(sketch[name] for name in parts), sketch["all"], rtol=1e-3, atol=1e-5
        )


def test_where_every_position_is_a_node_lengths_are_those_of_the_responses(tmp_path):
    settings = {**SETTINGS, "node_sampler": "all", "limit": 3, "methods": ["gkd"]}
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    table = run.table("gradients").query("method == 'gkd' and split == 'all'")
    table = table.set_index("question_id")
    for group, (_, row) in zip(
        responses_by_hand(run, "demo:strong", "gkd"), table.iterrows(), strict=True
    ):
        mean = sum(group) / 2
        assert row["length2"] == pytest.approx(float(mean @ mean), rel=1e-3)
        inner = float(group[0] @ group[1])
        assert row["within2"] == pytest.approx(inner, rel=1e-3, abs=1e-9)
        squares = np.mean([float(one @ one) for one in group])
        assert row["response_variance"] == pytest.approx(squares - inner, rel=1e-3)


def test_updates_are_the_gradients_of_the_losses_themselves(tmp_path):
    """Against autograd of the reverse KL over the whole vocabulary, at every position."""
    settings = {**SETTINGS, "node_sampler": "all", "limit": 3, "methods": ["opd"]}
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    table = run.table("gradients").query("method == 'opd' and split == 'all'")
    length2 = table.set_index("question_id")["length2"]
    with (
        loaded_model("demo:student", device="cpu", dtype="float32") as model,
        loaded_model("demo:strong", device="cpu", dtype="float32") as other,
    ):
        model.requires_grad_(True)
        for question in run.questions.itertuples():
            total = torch.zeros(())
            spines = run.spines.query("question_id == @question.question_id")
            for spine in spines.itertuples():
                ids = torch.tensor([[*question.prompt_ids, *spine.token_ids]])
                at = slice(len(question.prompt_ids) - 1, ids.shape[1] - 1)
                log_p = torch.log_softmax(model(ids).logits[0, at].double(), -1)
                log_q = torch.log_softmax(other(ids).logits[0, at].double(), -1).detach()
                total = total + (log_p.exp() * (log_q - log_p)).sum() / len(spines)
            parts = torch.autograd.grad(total, list(model.parameters()))
            expected = sum(
                float(part.double().flatten() @ part.double().flatten()) for part in parts
            )
            # Tables leave out tokens that hold a little of the direction.
            assert length2[question.question_id] == pytest.approx(expected, rel=0.02)


def test_of_the_output_layer_alone_it_is_that_of_hidden_states(tmp_path):
    """Another route to the same numbers: sums over nodes of m_u h_u^T, and no backward pass."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from gradalign.models import resolve_model

    path = resolve_model("demo:student")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    tied = model.get_output_embeddings().weight.detach().clone()
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(tied)
    model.save_pretrained(tmp_path / "untied")
    AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path / "untied")
    settings = {
        **SETTINGS,
        "student": str(tmp_path / "untied"),
        "node_sampler": "all",
        "limit": 8,
        "methods": ["gkd", "opd"],
        "weights_space": "layers=lm_head*",
    }
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    assert run.config.alignment == ["pooled", "weights"]
    rows, ideal = main_rows(run), layer_updates(run, "ideal")
    pairs = list(itertools.permutations(range(len(ideal)), 2))
    for method in ("gkd", "opd"):
        own = layer_updates(run, method)
        cross = np.mean([(ideal[q] * own[r]).sum() for q, r in pairs])
        shared = np.mean([(own[q] * own[r]).sum() for q, r in pairs])
        length2 = shared + (np.mean([(m * m).sum() for m in own]) - shared) / 32
        both = np.mean([(ideal[q] * ideal[r]).sum() for q, r in pairs])
        row = rows.loc["demo:strong", method]
        assert row["weights_gain"] == pytest.approx(cross / np.sqrt(length2), rel=1e-3)
        if np.isfinite(row["weights"]):
            assert row["weights"] == pytest.approx(cross / np.sqrt(length2 * both), rel=2e-3)


def layer_updates(report, method):
    """Every question's update of the output layer's weight, [Q][V, D]."""
    hidden = report.table("hidden").set_index("node_id")["hidden"]
    directions = report.table("directions").query("method == @method").set_index("node_id")
    found = {question: np.zeros((259, len(hidden.iloc[0]))) for question in report.question_ids}
    for node, tried in report.branches.groupby("node_id", observed=True):
        tokens = tried["token_id"].tolist()
        if method == "ideal":
            values = tried["student_prob"].sum() * tried["ideal"].fillna(0.0).to_numpy()
        else:
            row = directions.loc[node]
            tokens += list(row["other_ids"])
            values = np.nan_to_num([*row["direction"], *row["other_direction"]])
        sums = found[tried["question_id"].iloc[0]]
        np.add.at(sums, tokens, values[:, None] * hidden[node] / SETTINGS["num_rollouts"])
    return list(found.values())


def test_influences_give_the_gain_s_interval(report):
    rows, count = main_rows(report), SETTINGS["limit"]
    for (teacher, method), own in report.table("question_sums").groupby(
        ["teacher", "method"], observed=True
    ):
        for column, influence in (
            ("weights_gain", "weights_influence"),
            ("weights_gain_one", "weights_one_influence"),
        ):
            row, psi = rows.loc[teacher, method], own[influence].to_numpy()
            se = np.sqrt(count / (count - 1) * (psi**2).sum())
            quantile = t_dist.ppf(0.975, count - 1)
            below, above = (max(quantile, reach) for reach in skewed_reaches(psi))
            assert row[column] - row[f"{column}_low"] == pytest.approx(above * se, rel=1e-6)
            assert row[f"{column}_high"] - row[column] == pytest.approx(below * se, rel=1e-6)


def test_the_verdict_goes_by_it(report):
    result = report.recommend()
    assert result.basis == "weights_gain_one"
    gains = main_rows(report)["weights_gain_one"]
    for item in result.ranking:
        assert item.value.value == pytest.approx(gains[item.teacher, item.method])


def test_rescoring_adds_it_and_keeps_what_is_there(report, tmp_path):
    plain = gradalign.score(**{**SETTINGS, "methods": ["opd"]}, output_dir=str(tmp_path / "run"))
    assert plain.summary["weights_gain"].isna().all()
    more = gradalign.rescore(plain.path, alignment="weights")
    wanted, found = main_rows(report), main_rows(more)
    for column in LEVEL:
        np.testing.assert_allclose(
            found.loc["demo:strong", "opd"][column], wanted.loc["demo:strong", "opd"][column]
        )
    before = {
        (row.question_id, row.method, row.split): row.length2
        for row in more.table("gradients").itertuples()
    }
    more = gradalign.rescore(plain.path, methods=["gkd:beta=0", "dr_grpo"])
    np.testing.assert_allclose(
        main_rows(more)["weights_gain"].sort_index(), wanted["weights_gain"].sort_index()
    )
    after = {
        (row.question_id, row.method, row.split): row.length2
        for row in more.table("gradients").itertuples()
    }
    assert {key: after[key] for key in before} == pytest.approx(before, nan_ok=True)
    lora = gradalign.rescore(plain.path, alignment="weights", weights_space="lora:rank=2")
    assert lora.config.weights_space == "lora:rank=2"
    assert not np.allclose(
        main_rows(lora)["weights_gain"].sort_index(), wanted["weights_gain"].sort_index()
    )
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(plain.path, alignment="weights")


def test_a_new_teacher_has_its_columns_without_another_pass(tmp_path, monkeypatch):
    """From derivatives on the tokens that were kept, and their mean on others."""
    from gradalign.stages.weights import derivatives

    settings = {**SETTINGS, "methods": ["opd"], "support_size": 16}
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    monkeypatch.setattr(derivatives, "derivatives", None)  # whoever calls it fails
    more = gradalign.rescore(run.path, teachers=["demo:weak"])
    own = [sum(group) / 2 for group in responses_by_hand(more, "demo:weak", "opd")]
    ideal = [sum(group) / 2 for group in responses_by_hand(more, "", "ideal")]
    table = more.alignment.query("teacher == 'demo:weak'")
    questions = table["question_id"].astype(str)
    found = (table["weight"] * table["weights_dot"]).groupby(questions).sum() / 2
    outside = table["weights_outside"].max()
    assert 0 < outside < 0.02
    for q, name in enumerate(map(str, more.questions["question_id"])):
        mean = sum(one for p, one in enumerate(ideal) if p != q) / (len(ideal) - 1)
        wanted, size = float(mean @ own[q]), float(mean.norm() * own[q].norm())
        assert found[name] == pytest.approx(wanted, abs=(1e-3 + outside) * size)


@pytest.mark.parametrize(
    "call", [3, 9, 30], ids=["in the sums", "in the derivatives", "in the arms"]
)
def test_an_interrupted_run_goes_on_to_the_same_numbers(
    report, finished_runs, tmp_path, monkeypatch, call
):
    from gradalign.analysis import gradients

    calls = []
    plain = gradients.LogitGradients.along

    def failing(self, pushed):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return plain(self, pushed)

    folder = tmp_path / "run"
    finished_runs.copy(folder, **SETTINGS)
    monkeypatch.setattr(gradients.LogitGradients, "along", failing)
    with pytest.raises(KeyboardInterrupt):
        gradalign.rescore(str(folder), alignment="weights")
    monkeypatch.setattr(gradients.LogitGradients, "along", plain)
    again = gradalign.score(**SETTINGS, alignment="weights", output_dir=str(folder))
    assert_same_tables(Path(report.path), Path(again.path))


def test_its_table_has_its_schema(report):
    table = report.table("gradients")
    assert list(table.columns) == schema("gradients").names
    arms = 2 + 1  # two methods of the teacher, and Dr. GRPO: whole and by outcome; ideal: whole
    assert len(table) == SETTINGS["limit"] * (1 + 3 * arms)
    assert table.loc[table["method"] == "ideal", "length2"].isna().all()
    slopes = report.table("derivatives")
    assert list(slopes.columns) == schema("derivatives").names
    assert set(slopes["node_id"]) == set(report.nodes["node_id"])
    assert slopes["rest_prob"].between(0, 1).all()
    # Sums as large as the space are gone when nothing needs them any more.
    assert not report.folder.files("ideal_updates")


def test_a_space_that_is_none_is_refused_before_the_run(tmp_path):
    with pytest.raises(UsageError, match="is no space of weights"):
        gradalign.score(
            **SETTINGS,
            alignment="weights",
            weights_space="most",
            output_dir=str(tmp_path / "run"),
        )
    assert not (tmp_path / "run").exists()


def test_a_large_student_is_read_in_bfloat16_with_checkpoints(
    report, finished_runs, tmp_path, monkeypatch
):
    """The same numbers but for rounding, by other means."""
    from gradalign.stages.weights import gradients

    opened = []
    plain = gradients.checkpoints

    def noting(model, *, on):
        opened.append((next(model.parameters()).dtype, on))
        return plain(model, on=on)

    monkeypatch.setattr(gradients, "LARGE", 10_000)
    monkeypatch.setattr(gradients, "available_bytes", lambda device: 0)
    monkeypatch.setattr(gradients, "checkpoints", noting)
    folder = tmp_path / "run"
    finished_runs.copy(folder, **SETTINGS)
    settings = {**SETTINGS, "output_dir": str(tmp_path / "refused")}
    with pytest.raises(UsageError, match="hides differences"):
        gradalign.score(**settings, alignment="weights", weights_derivative="differences")
    run = gradalign.rescore(str(folder), alignment="weights")
    assert set(opened) == {(torch.bfloat16, True)}
    found, wanted = main_rows(run), main_rows(report)
    scale = wanted["weights_gain_one"].abs().max()
    np.testing.assert_allclose(
        found["weights_gain_one"], wanted["weights_gain_one"], atol=0.02 * scale
    )
    sums = [
        (table["weight"] * table["weights_dot"]).groupby(table["method"], observed=True).sum()
        for table in (run.alignment, report.alignment)
    ]
    np.testing.assert_allclose(sums[0], sums[1], atol=0.02 * sums[1].abs().max())

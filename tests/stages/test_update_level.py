"""Update-level alignment of a real run against matrices of the output layer, written out."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from runs import assert_same_tables, flags
from scipy.stats import t as t_dist

import gradalign
from gradalign.errors import RunError, UsageError
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence, forced_passes
from gradalign.report.format import interval
from gradalign.store.schema import schema
from gradalign_cli.main import main

SETTINGS = {
    "student": "demo:student",
    "teachers": ["demo:strong", "demo:weak"],
    "task": "demo:addition",
    "methods": ["gkd:beta=0", "opd", "dr_grpo"],
    "limit": 24,
    "num_rollouts": 2,
    "nodes": 8,
    "continuations": 6,
    "shard_size": 12,
    "bootstrap_resamples": 200,
    "diagnose": ["none"],
    "engine": "transformers",
    "device": "cpu",
}
UPDATE = ["update", "update_low", "update_high", "gain", "gain_low", "gain_high"]


@pytest.fixture(scope="module")
def report(finished_runs):
    return finished_runs.get(**SETTINGS, alignment="update")


def main_rows(report):
    return report.summary.query("split == 'all'").set_index(["teacher", "method"])


def read_by_hand(model, prompt_ids, response_ids):
    """Log-probabilities and last hidden states at every response position: one plain pass."""
    ids = torch.tensor([[*prompt_ids, *response_ids]])
    with torch.no_grad():
        out = model(input_ids=ids, output_hidden_states=True)
    at = slice(len(prompt_ids) - 1, ids.shape[1] - 1)
    log_p = torch.log_softmax(out.logits[0, at].double(), dim=-1)
    return log_p.numpy(), out.hidden_states[-1][0, at].double().numpy()


def written_out(report):
    """Per question the summed [V, D] update of the ideal, and of two methods and two teachers."""
    prompts = report.questions.set_index("question_id")["prompt_ids"]
    branches = dict(list(report.branches.groupby("node_id", observed=True)))
    spines = report.spines.set_index("spine_id")
    sums: dict[tuple[str, str], dict[str, np.ndarray]] = {}
    seen = {}
    for name in ("demo:student", *SETTINGS["teachers"]):
        with loaded_model(name, device="cpu") as model:
            for spine, row in spines.iterrows():
                prompt_ids = prompts[row.question_id]
                seen[name, spine] = read_by_hand(model, prompt_ids, row.token_ids)
    size = seen["demo:student", spines.index[0]]
    shape = (size[0].shape[1], size[1].shape[1])
    for node in report.nodes.itertuples():
        log_p, hidden = seen["demo:student", node.spine_id]
        tried = branches[node.node_id]
        tokens, values = tried["token_id"].to_numpy(), tried["value"].to_numpy()
        values = np.nan_to_num(values)  # without a choice V is not measured, and nothing to gain
        p = np.exp(log_p[node.position])
        inside = p[tokens] / p[tokens].sum()
        ideal = np.zeros(len(p))
        ideal[tokens] = p[tokens] * (values - inside @ values)
        steps = {("", ""): ideal}
        for teacher in SETTINGS["teachers"]:
            log_q = seen[teacher, node.spine_id][0][node.position]
            ratio = log_q - log_p[node.position]
            steps[teacher, "opd"] = p * (ratio - p @ ratio)
            steps[teacher, "gkd:beta=0"] = np.exp(log_q) - p
        for key, step_V in steps.items():
            total = sums.setdefault(key, {}).setdefault(node.question_id, np.zeros(shape))
            total += np.outer(step_V, hidden[node.position]) / node.inclusion_prob
    return sums


def test_it_is_the_cosine_of_the_output_layer_s_updates(report):
    sums = written_out(report)
    ideal, rows = sums["", ""], main_rows(report)
    pairs = list(itertools.permutations(ideal, 2))
    ideal2 = np.mean([(ideal[q] * ideal[r]).sum() for q, r in pairs])
    assert ideal2 > 0
    for teacher in SETTINGS["teachers"]:
        for method in ("opd", "gkd:beta=0"):
            own = sums[teacher, method]
            cross = np.mean([(ideal[q] * own[r]).sum() for q, r in pairs])
            common = np.mean([(own[q] * own[r]).sum() for q, r in pairs])
            alone = np.mean([(own[q] ** 2).sum() for q in own])
            step2 = common + (alone - common) / 32
            row = rows.loc[teacher, method]
            # Tables leave out a little of each direction, far from the candidates.
            gain = cross / np.sqrt(step2) / SETTINGS["num_rollouts"]
            assert row["gain"] == pytest.approx(gain, rel=1e-2)
            assert row["gain_low"] < row["gain"] < row["gain_high"]
            cosine = cross / np.sqrt(ideal2 * step2)
            assert np.isnan(row["update"]) or row["update"] == pytest.approx(cosine, rel=1e-2)
            assert row["update_low"] <= np.clip(cosine, -1.0, 1.0) <= row["update_high"]
    assert np.isfinite(rows.loc["", "dr_grpo"]["gain"])


def test_the_verdict_has_the_table_s_intervals(report):
    rows, known = main_rows(report), 0
    for item in report.recommend().ranking:
        row = rows.loc[item.teacher, item.method]
        shown = row[["pooled", "pooled_low", "pooled_high"]].astype(float).to_numpy()
        np.testing.assert_allclose(item.pooled.span, shown, rtol=0, atol=1e-12)
        known += item.pooled.known
    assert known >= 2
    assert rows.loc["", "dr_grpo"]["pooled"] == pytest.approx(1.0, abs=1e-9)


def test_influences_give_the_gain_s_interval(report):
    """What a verdict needs can be had from the folder: influences of every question."""
    sums, rows = report.table("question_sums"), main_rows(report)
    for (teacher, method), own in sums.groupby(["teacher", "method"], observed=True):
        count, row = SETTINGS["limit"], rows.loc[teacher, method]
        psi = own["gain_influence"].to_numpy()
        se = np.sqrt(count / (count - 1) * (psi**2).sum())
        half = (row["gain_high"] - row["gain_low"]) / 2
        assert half == pytest.approx(t_dist.ppf(0.975, count - 1) * se, rel=1e-6)


@pytest.mark.parametrize("table", ["hidden", "slopes", "directions"])
def test_its_tables_have_their_schemas(report, table):
    files = sorted((Path(report.path) / table).glob("*.parquet"))
    assert len(files) == 2
    assert all(pq.read_schema(file).names == schema(table).names for file in files)
    arms = 1 + 2 * 2  # Dr. GRPO, two methods of two teachers
    assert len(report.table(table)) == len(report.nodes) * (arms if table == "directions" else 1)


def test_the_plan_counts_it(report):
    """No further pass of the student; room for directions beside 48 numbers of every node."""
    plain = gradalign.plan(**SETTINGS).as_dict()["figures"]
    figures = gradalign.plan(**SETTINGS, alignment="update").as_dict()["figures"]
    spines = SETTINGS["limit"] * SETTINGS["num_rollouts"]
    assert figures["student_passes"] == plain["student_passes"] == spines
    assert figures["forced_tokens"] == plain["forced_tokens"]
    assert figures["disk_bytes"] > plain["disk_bytes"] > figures["nodes"] * 48 * 4
    actual = report.metadata["actual"]["figures"]
    assert actual["student_passes"] == figures["student_passes"]


def test_only_the_split_of_everything_has_it(report):
    others = report.summary.query("split != 'all'")
    assert len(others) > 10
    assert others[UPDATE].isna().all(axis=None)


def test_hidden_states_are_what_the_output_layer_reads_however_batched():
    rng = np.random.default_rng(0)
    with loaded_model("demo:student", device="cpu") as model:
        sequences = [
            ForcedSequence(
                rng.integers(4, 20, 3 + index % 4).tolist(), rng.integers(4, 20, length).tolist()
            )
            for index, length in enumerate((5, 9, 1, 7, 3))
        ]
        for batch_tokens in (1, 30, 16384):
            found = dict(
                forced_passes(model, sequences, batch_tokens=batch_tokens, with_hidden=True)
            )
            assert sorted(found) == list(range(5))
            for index, read in found.items():
                sequence, hidden = sequences[index], read.hidden_LD.numpy()
                log_p, expected = read_by_hand(model, sequence.prompt_ids, sequence.response_ids)
                np.testing.assert_allclose(hidden, expected, atol=2e-4)
                weight = model.get_output_embeddings().weight.detach().numpy()
                logits = torch.from_numpy(hidden @ weight.T).double()
                np.testing.assert_allclose(torch.log_softmax(logits, -1), log_p, atol=1e-3)


def test_a_finished_run_gets_it_by_rescoring_and_keeps_it(report, tmp_path):
    folder = tmp_path / "run"
    plain = gradalign.score(**SETTINGS, output_dir=str(folder))
    assert plain.summary[UPDATE].isna().all(axis=None)
    with pytest.raises(RunError, match="--alignment adds update"):
        gradalign.score(**SETTINGS, alignment="update", output_dir=str(folder))
    aligned = next((folder / "alignment").glob("*.parquet"))
    before = aligned.stat().st_mtime_ns
    gradalign.rescore(str(folder), alignment="update")
    assert aligned.stat().st_mtime_ns == before  # nothing else is done again
    assert_same_tables(folder, type(folder)(report.path))
    hidden = next((folder / "hidden").glob("*.parquet"))
    before = hidden.stat().st_mtime_ns
    more = gradalign.rescore(str(folder), methods=["gkd"])
    assert hidden.stat().st_mtime_ns == before  # a new method reads no model
    assert np.isfinite(main_rows(more).loc["demo:strong", "gkd"]["gain"])
    pd.testing.assert_series_equal(
        main_rows(more).loc["demo:weak", "opd"][UPDATE].astype(float),
        main_rows(report).loc["demo:weak", "opd"][UPDATE].astype(float),
    )
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(str(folder), alignment="update")


def test_an_interrupted_run_finishes_it(report, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)
    for table in ("hidden", "slopes", "directions"):
        sorted((folder / table).glob("*.parquet"))[-1].unlink()
    (folder / "summary.parquet").unlink()
    gradalign.score(**SETTINGS, alignment="update", output_dir=str(folder))
    assert_same_tables(folder, type(folder)(report.path))


def test_the_command_line_offers_and_shows_it(report, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(report.path, folder)  # finished: the command has only to print it
    settings = SETTINGS | {"alignment": "update", "output_dir": str(folder)}
    with pytest.raises(SystemExit) as stop:
        main(["score", *flags(settings), "--display", "none"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert out.index("pooled") < out.index("update") < out.index("mean")
    row = main_rows(report).loc["demo:weak", "opd"]
    assert interval(row["update"], row["update_low"], row["update_high"]) in out

"""What users bring: their own rows, templates, verifiers, and teachers of another shape."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import SMALL

import gradalign
from gradalign.demo import addition, model_path
from gradalign.errors import RunError
from gradalign.stages.preparation.preview import preview_prompts

PROBLEMS = addition.generate(3, seed=11)
SETTINGS = {
    **SMALL,
    "methods": ["gkd:beta=0", "opd"],
    "nodes": 3,
    "shard_size": 4,
    "diagnose": ["none"],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_raw_prompts_messages_and_contexts_given_by_rows(tmp_path):
    raw = [
        {
            "id": f"q{i}",
            "prompt": problem.prompt,
            "answer": problem.answer,
            "contexts": {"hinted": addition.context_prompt(problem, "answer")},
        }
        for i, problem in enumerate(PROBLEMS)
    ]
    chat = [
        {
            "id": row["id"],
            "messages": [{"role": "user", "content": problem.prompt.rstrip("=")}],
            "answer": problem.answer,
            "contexts": {
                "hinted": [
                    {"role": "system", "content": problem.answer},
                    {"role": "user", "content": problem.prompt},
                ]
            },
        }
        for row, problem in zip(raw, PROBLEMS, strict=True)
    ]
    reports = [
        gradalign.score(
            **{
                **SETTINGS,
                "task": write(tmp_path / f"{name}.jsonl", rows),
                "teachers": ["self+hinted", "demo:strong"],
                "verifier": r"regex:,(\d+)$",
            },
            output_dir=str(tmp_path / name),
        )
        for name, rows in (("raw", raw), ("chat", chat))
    ]
    first, second = reports
    assert first.questions["prompt_ids"].map(list).tolist() == (
        second.questions["prompt_ids"].map(list).tolist()
    )
    # The same prompts give the same run, whichever way they were written.
    np.testing.assert_array_equal(first.alignment["cosine"], second.alignment["cosine"])
    for row in first.spines.itertuples():
        number = int(row.question_id[1:])
        right = addition.extract_answer(row.text) == PROBLEMS[number].answer
        assert row.correct == (right and row.finish_reason == "stop")
    whole = first.summary.query("split == 'all' and method == 'opd'").set_index("teacher")
    assert set(whole.index) == {"self+hinted", "demo:strong"}
    assert (whole["num_nodes"] > whole["num_flat"] + whole["num_undefined"]).all()


def test_a_verifier_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_checks.py").write_text(
        "def ends_well(text, question):\n    return 1.0 if text.endswith('5') else 0.25\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = gradalign.score(
        **{**SETTINGS, "limit": 1, "verifier": "my_checks:ends_well"},
        output_dir=str(tmp_path / "run"),
    )
    for row in report.spines.itertuples():
        assert row.reward == (1.0 if row.text.endswith("5") else 0.25)
        assert row.correct == row.text.endswith("5")


def test_a_teacher_with_padded_embeddings(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path / "padded"
    model = AutoModelForCausalLM.from_pretrained(model_path("strong"))
    model.resize_token_embeddings(model.config.vocab_size + 13)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path("strong")).save_pretrained(folder)
    report = gradalign.score(
        **{**SETTINGS, "teachers": [str(folder)], "limit": 2}, output_dir=str(tmp_path / "run")
    )
    plain = gradalign.score(
        **{**SETTINGS, "teachers": ["demo:strong"], "limit": 2}, output_dir=str(tmp_path / "plain")
    )
    one, other = (run.tokens["teacher_logprob"].to_numpy() for run in (report, plain))
    np.testing.assert_allclose(one, other, atol=0.05)  # the new rows get a little mass
    assert report.branches["token_id"].max() < 259


def test_truncated_responses_count_as_failures(tmp_path):
    report = gradalign.score(
        **{**SETTINGS, "max_tokens": 8, "limit": 2}, output_dir=str(tmp_path / "run")
    )
    assert (report.spines["finish_reason"] == "length").all()
    assert (report.spines["reward"] == 0).all()
    assert report.nodes["flat"].all()
    assert report.summary["pooled"].isna().all()
    assert report.nodes.loc[report.nodes["num_continuations"] > 0, "truncated_share"].eq(1).all()
    assert any("--max-tokens" in line for line in report.footer())


def test_contexts_that_are_not_there_for_a_pair_are_skipped_and_counted(tmp_path):
    report = gradalign.score(
        **{**SETTINGS, "teachers": ["self+sibling"], "limit": 3}, output_dir=str(tmp_path / "run")
    )
    shown = report.tokens["spine_id"].nunique()
    spines = report.spines
    other_success = [
        spines[(spines["question_id"] == row.question_id) & (spines["spine_id"] != row.spine_id)][
            "correct"
        ].any()
        for row in spines.itertuples()
    ]
    assert shown == sum(other_success)
    assert report.metadata["totals"]["skipped_pairs"] == len(spines) - shown
    aligned = report.alignment.loc[report.alignment["teacher"] == "self+sibling", "spine_id"]
    assert aligned.nunique() == shown


@pytest.mark.parametrize("sampling", [{"temperature": 0.7}, {"top_p": 0.8}, {"top_k": 2}])
def test_other_sampling_settings_reach_the_student_distribution(tmp_path, sampling):
    report = gradalign.score(
        **{**SETTINGS, **sampling, "limit": 1}, output_dir=str(tmp_path / "run")
    )
    plain = np.concatenate(report.distributions["student_logprobs"].to_numpy())
    assert np.isneginf(plain).any() == ("temperature" not in sampling)
    masses = [
        np.exp(np.asarray(row.student_logprobs, dtype=float)).sum() + np.exp(row.student_log_tail)
        for row in report.distributions.itertuples()
    ]
    np.testing.assert_allclose(masses, 1.0, atol=1e-5)
    assert report.alignment.query("method == 'opd'")["dot"].notna().all()


def test_special_tokens_can_be_left_out(tmp_path):
    settings = {**SETTINGS, "limit": 2, "nodes": 40, "node_sampler": "all", "continuations": 2}
    both = gradalign.score(**settings, output_dir=str(tmp_path / "both"))
    masked = gradalign.score(**settings, mask_special=True, output_dir=str(tmp_path / "masked"))
    ends = both.nodes["special"]
    assert ends.sum() == (both.spines["finish_reason"] == "stop").sum() > 0
    assert set(both.nodes.loc[ends, "sampled_token_id"]) == {2}
    own = both.tokens[both.tokens["teacher"] == "demo:strong"]
    assert own.groupby("spine_id", observed=True)["special"].sum().max() == 1

    def rows(report, split):
        return report.summary[report.summary["split"] == split].set_index(["teacher", "method"])

    assert rows(both, "all")["pooled"].equals(rows(both, "with-special")["pooled"])
    assert rows(masked, "all")["pooled"].equals(rows(both, "without-special")["pooled"])
    assert (rows(both, "all")["num_nodes"] - rows(masked, "all")["num_nodes"]).eq(ends.sum()).all()
    assert any("at special tokens and are included" in line for line in both.footer())
    assert any("were left out" in line for line in masked.footer())


def test_templates_per_role(tmp_path):
    """The teachers' template shows a hint before the question; the student's does not."""
    shown = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}="
    (tmp_path / "student.jinja").write_text(shown)
    (tmp_path / "teacher.jinja").write_text(f"{{{{ bos_token }}}}[{{{{ hint }}}}]{shown[15:]}")
    rows = [{"id": "a", "messages": [{"role": "user", "content": "34+57"}], "answer": "91"}]
    settings = {
        **SETTINGS,
        "task": write(tmp_path / "rows.jsonl", rows),
        "verifier": r"regex:,(\d+)$",
        "chat_template": str(tmp_path / "student.jinja"),
        "teacher_chat_template": str(tmp_path / "teacher.jinja"),
        "teacher_chat_template_kwargs": {"hint": "22"},
        "teachers": ["self", "demo:strong"],
        "output_dir": str(tmp_path / "run"),
    }
    config = gradalign.ScoreConfig.build(settings)
    texts = {view.reader: view.text for view in preview_prompts(config, 1)}
    assert texts["student"].endswith("34+57=")
    assert texts["self"].endswith("[22]34+57=")
    first = gradalign.score(**settings)
    assert first.questions["prompt"].iloc[0] == texts["student"]
    assert (tmp_path / "teacher.jinja").write_text(
        f"{{{{ bos_token }}}}({{{{ hint }}}}){shown[15:]}"
    )
    with pytest.raises(RunError, match="chat template was changed"):
        gradalign.score(**settings)


def test_a_rule_that_changed_is_not_mixed_in(tmp_path):
    rule = tmp_path / "rule.txt"
    rule.write_text("133")
    settings = {
        **SETTINGS,
        "limit": 1,
        "teachers": [f"self+system:@{rule}"],
        "output_dir": str(tmp_path / "run"),
    }
    gradalign.score(**settings)
    gradalign.score(**settings)
    rule.write_text("134")
    with pytest.raises(RunError, match="was changed"):
        gradalign.score(**settings)


def test_failed_verifications_are_counted_by_kind(tmp_path, monkeypatch):
    (tmp_path / "bad_checks.py").write_text(
        "def check(text, question):\n"
        "    if text.endswith('1'):\n        return 2\n"
        "    if text.endswith('2'):\n        raise KeyError('two')\n"
        "    return 1.0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = gradalign.score(
        **{**SETTINGS, "limit": 4, "verifier": "bad_checks:check"},
        output_dir=str(tmp_path / "run"),
    )
    kinds = {"out_of_range": 0, "raised": 0}
    for frame in (report.spines, report.continuations):
        for kind in kinds:
            kinds[kind] += int((frame["verifier_error"] == kind).sum())
    failed = report.spines[report.spines["verifier_error"] != ""]
    assert (failed["reward"] == 0).all()
    assert sum(kinds.values()) > 0
    totals = report.metadata["totals"]
    assert {kind: totals.get(f"verifier_{kind}", 0) for kind in kinds} == kinds
    assert any("verifications failed" in line for line in report.footer())

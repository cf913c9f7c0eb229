"""What a run does once: every prompt of a teacher, and every sequence through a model."""

from __future__ import annotations

from collections import Counter

import numpy as np
from runs import SMALL

import gradalign
from gradalign.models.distributions import last_logits
from gradalign.models.prompts.render import render

SETTINGS = {**SMALL, "methods": ["gkd"], "num_rollouts": 3, "shard_size": 2, "diagnose": ["none"]}


def test_every_model_reads_every_sequence_once(tmp_path, monkeypatch):
    read: Counter[tuple[int, ...]] = Counter()

    def counted(model, rows, keep):
        weights = next(model.parameters())
        read.update((hash(weights.sum().item()), *map(int, row)) for row in rows)
        return last_logits(model, rows, keep)

    monkeypatch.setattr("gradalign.models.distributions.last_logits", counted)
    run = gradalign.score(**SETTINGS, alignment="update", output_dir=str(tmp_path / "run"))
    # Equal responses to a question are as many sequences.
    prompts = run.questions.set_index("question_id")["prompt_ids"]
    asked = Counter((*prompts[row.question_id], *row.token_ids) for row in run.spines.itertuples())
    for ids, number in asked.items():
        alike = [count for (_, *row), count in read.items() if tuple(row) == ids]
        assert alike == [number] * 2  # the student, and the one teacher that sees no more
    assert sum(read.values()) == len(run.spines) * (1 + len(SETTINGS["teachers"]))
    held = run.distributions
    total = held["student_logprobs"].map(lambda row: np.exp(row).sum())
    np.testing.assert_allclose(total + np.exp(held["student_log_tail"]), 1.0, atol=1e-5)


def test_prompts_are_rendered_once_per_question_and_context(tmp_path, monkeypatch):
    rendered: list[str] = []

    def counted(tokenizer, prompt, **options):
        rendered.append(prompt)
        return render(tokenizer, prompt, **options)

    monkeypatch.setattr("gradalign.stages.student.render", counted)
    gradalign.score(**SETTINGS, output_dir=str(tmp_path / "run"))
    assert len(rendered) == len(set(rendered)) == SETTINGS["limit"] * len(SETTINGS["teachers"])

"""What a run does once: every prompt of a teacher, and every sequence through a model."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
from runs import SMALL

import gradalign
from gradalign.models.distributions import last_logits
from gradalign.models.prompts.render import render
from gradalign.stages.base import Resolved, Run, teacher_file
from gradalign.stages.distributions import StudentSupports
from gradalign.store.schema import schema

SETTINGS = {**SMALL, "methods": ["gkd"], "num_rollouts": 3, "shard_size": 2, "diagnose": ["none"]}


def test_every_model_reads_every_sequence_once(tmp_path, monkeypatch):
    read: Counter[tuple[int, ...]] = Counter()

    def counted(model, rows, keep):
        weights = next(model.parameters())
        read.update((hash(weights.sum().item()), *map(int, row)) for row in rows)
        return last_logits(model, rows, keep)

    monkeypatch.setattr("gradalign.models.distributions.last_logits", counted)
    run = gradalign.score(**SETTINGS, output_dir=str(tmp_path / "run"))
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


def test_a_response_without_a_token_is_left_out(small_copy):
    """A stage finds a folder as if one spine's response were empty, and does the others."""
    key = ["teacher", "node_id"]
    before = small_copy.distributions.set_index(key)["student_logprobs"]
    config = small_copy.config.model_copy(update={"output_dir": small_copy.path})
    run = Run(config, Resolved(**small_copy.metadata["resolved"]))
    shard, teachers = run.shards()[0], run.config.teachers
    gone = run.folder.read_table("spines", shard)["spine_id"][0].as_py()
    files = [teacher_file(shard, teacher) for teacher in teachers]
    for name, file in [
        ("hidden", shard), ("positions", shard), *(("supports", file) for file in files)
    ]:  # fmt: skip
        table = run.folder.read_table(name, file)
        kept = [spine != gone for spine in table["spine_id"].to_pylist()]
        run.folder.write_table(name, file, table.filter(kept))
    rows = run.folder.read_table("spines", shard).to_pylist()
    rows[0]["token_ids"] = []
    run.folder.write_table("spines", shard, pa.Table.from_pylist(rows, schema=schema("spines")))
    run.folder.remove_tables(["distributions"])
    with StudentSupports().session(run) as work:
        for name in run.shards():
            work(name, lambda done, total, new: None)
    after = gradalign.read_report(small_copy.path).distributions.set_index(key)["student_logprobs"]
    left_out = before[before.index.difference(after.index)].index
    assert len(left_out) == 4 * len(teachers)
    assert all(node.startswith(f"{gone}/") for _, node in left_out)
    found, expected = np.hstack(after), np.hstack(before.loc[after.index])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_prompts_are_rendered_once_per_question_and_context(tmp_path, monkeypatch):
    rendered: list[str] = []

    def counted(tokenizer, prompt, **options):
        rendered.append(prompt)
        return render(tokenizer, prompt, **options)

    monkeypatch.setattr("gradalign.stages.student.render", counted)
    gradalign.score(**SETTINGS, output_dir=str(tmp_path / "run"))
    assert len(rendered) == len(set(rendered)) == SETTINGS["limit"] * len(SETTINGS["teachers"])

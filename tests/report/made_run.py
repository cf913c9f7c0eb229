"""Run folders with a known alignment, made without any model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gradalign.store.folder import RunFolder
from gradalign.store.schema import SCHEMA_VERSION, schema
from gradalign.store.table_builder import Rows


def write_run(
    folder: Path,
    arms: Mapping[tuple[str, str], float],
    *,
    questions: int = 40,
    nodes: int = 12,
    shard_size: int = 16,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write `nodes` and `alignment` where each arm's true pooled alignment is given.

    At every node g is a normal vector in three dimensions, and an arm's m = c g + sqrt(1 - c^2) h
    with an independent h: the pooled alignment tends to c. Half of the nodes are correct.
    """
    rng = np.random.default_rng(seed)
    run = RunFolder(str(folder))
    for shard, start in enumerate(range(0, questions, shard_size)):
        names = [f"q{i:05d}" for i in range(start, min(start + shard_size, questions))]
        count = len(names) * nodes
        question = np.repeat(names, nodes)
        position = np.tile(np.arange(nodes), len(names))
        spine = np.char.add(question, "/0")
        node = np.char.add(np.char.add(spine, "/"), position.astype(str))
        correct = np.tile(np.arange(nodes) % 2 == 0, len(names))
        g_N3 = rng.normal(size=(count, 3))
        norm2 = (g_N3**2).sum(axis=1)
        rows = Rows("nodes")
        rows.add(
            count, **filled("nodes"), question_id=question.tolist(), spine_id=spine.tolist(),
            position=position, node_id=node.tolist(), correct=correct,
            relative_position=position / (nodes - 1), inclusion_prob=np.full(count, 0.5),
            student_entropy=rng.random(count), ideal_norm2=norm2,
        )  # fmt: skip
        run.write_table("nodes", f"shard-{shard:05d}", rows.table_of())
        rows = Rows("alignment")
        for (teacher, method), c in arms.items():
            m_N3 = c * g_N3 + np.sqrt(1 - c**2) * rng.normal(size=(count, 3))
            dot, m2 = (g_N3 * m_N3).sum(axis=1), (m_N3**2).sum(axis=1)
            rows.add(
                count, **filled("alignment"), question_id=question.tolist(),
                spine_id=spine.tolist(), position=position, node_id=node.tolist(), teacher=teacher,
                method=method, correct=correct, weight=np.full(count, 2.0),
                cosine=dot / np.sqrt(norm2 * m2), reason="", dot=dot, ideal_norm2=norm2,
                method_norm2=m2,
            )  # fmt: skip
        run.write_table("alignment", f"shard-{shard:05d}", rows.table_of())
        rows = Rows("questions")
        rows.add(
            len(names), question_id=names, prompt="p", prompt_ids=[[1]] * len(names), answer=None,
            record="{}",
        )  # fmt: skip
        run.write_table("questions", f"shard-{shard:05d}", rows.table_of())
    totals = {"questions": questions, "continuations": 100 * questions}
    stages = {"branch": {"seconds": 2.0 * questions, "counts": {}}}
    run.write_json(
        "run.json",
        {
            "schema_version": SCHEMA_VERSION, "status": "done", "config": {"seed": 0},
            "num_questions": questions, "totals": totals, "stages": stages, **(metadata or {}),
        },
    )  # fmt: skip


def filled(table: str) -> dict[str, Any]:
    """Return a 0, False or empty text for every column that the caller does not set."""
    given = {
        "question_id", "spine_id", "position", "node_id", "correct", "relative_position",
        "inclusion_prob", "student_entropy", "ideal_norm2", "teacher", "method", "weight",
        "cosine", "reason", "dot", "method_norm2",
    }  # fmt: skip
    fills: dict[str, Any] = {}
    for field in schema(table):
        if field.name in given:
            continue
        if pa.types.is_list(field.type):
            fills[field.name] = [[]]  # such tables are written row by row
            continue
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        boolean = pa.types.is_boolean(kind)
        fills[field.name] = "" if pa.types.is_string(kind) else False if boolean else 0
    return fills

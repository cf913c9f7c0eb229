"""Runs whose teachers have another tokenizer: the bundled models under other ids and merges."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import gradalign
from gradalign.errors import TokenizerMismatchError, UsageError
from tests.tokenization.checkpoints import renumbered

METHODS = ["gkd", "gkd:beta=0", "opd", "opd:top_k=16,support=teacher", "minillm"]


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The strong teacher with its tokens under other ids."""
    return renumbered("demo:strong", tmp_path_factory.mktemp("shuffled"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The strong teacher with another tokenizer, which cuts the task's texts alike."""
    return renumbered("demo:strong", tmp_path_factory.mktemp("other"), merge=True)


def settings(folder: Path, *teachers: str) -> dict[str, object]:
    """Return a small run's settings."""
    return {
        "student": "demo:student",
        "teachers": list(teachers),
        "task": "demo:addition",
        "output_dir": str(folder),
        "limit": 4,
        "control": False,
    }


@pytest.mark.slow
def test_alignment_is_that_of_the_same_teacher_with_the_same_tokens(
    tmp_path: Path, shuffled: str, other: str
) -> None:
    """Mapped ids and matched bytes give the alignment of the plain reading, to 1e-6."""
    report = gradalign.score(
        **settings(tmp_path / "run", "demo:strong", shuffled, other),
        methods=METHODS,
        matched_candidates=128,
    )
    rows = report.table("alignment")
    by_arm = {
        key: group.set_index("node_id")["cosine"]
        for key, group in rows.groupby(["teacher", "method"], observed=True)
    }
    for teacher in (shuffled, other):
        for method in METHODS:
            if teacher == other and method == "minillm":
                assert (teacher, method) not in by_arm  # it looks at continuations
                continue
            plain, found = by_arm["demo:strong", method], by_arm[teacher, method]
            assert len(plain) == len(found) > 0
            np.testing.assert_allclose(found[plain.index], plain, atol=1e-6)
    matches = report.table("matches")
    assert set(matches["teacher"]) == {other}
    assert (matches["kept"] == 1.0).all()
    for row in matches.itertuples():
        assert np.sum(row.mass) == pytest.approx(row.matched, abs=1e-9)
    log = json.loads((tmp_path / "run" / "run.json").read_text())
    warnings = " ".join(log["resolved"]["warnings"])
    assert "matched by bytes, on the 128 most probable tokens" in warnings
    assert f"minillm is left out for {other}: it looks at what the teacher says of" in warnings


def test_the_same_tokenizer_can_be_required(tmp_path: Path, shuffled: str) -> None:
    """Then another one is refused before any work, as it was."""
    with pytest.raises(TokenizerMismatchError, match="ids differ"):
        gradalign.plan(**settings(tmp_path / "run", shuffled), require_same_tokenizer=True)


def test_what_needs_more_of_the_teacher_is_refused(tmp_path: Path, other: str) -> None:
    """No method is left, or the teacher would be sampled from: said before any work."""
    with pytest.raises(UsageError, match="every --method needs more of a teacher"):
        gradalign.plan(**settings(tmp_path / "run", other), methods=["minillm", "opd:top_k=64"])
    with pytest.raises(UsageError, match=r"--teacher-accuracy: teacher .* has another tokenizer"):
        gradalign.plan(**settings(tmp_path / "run", other), teacher_accuracy=4)
    with pytest.raises(UsageError, match="is on servers"):
        gradalign.plan(
            **settings(tmp_path / "run", other),
            teacher_base_urls=[f"{other}=http://localhost:1"],
        )

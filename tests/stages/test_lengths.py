"""What a whole run makes of models whose frequencies change, and of models without positions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import transformers

import gradalign
from gradalign.config import ScoreConfig
from gradalign.errors import ContextOverflowError, UsageError
from gradalign.models import loaded_model
from gradalign.stages.preparation.preflight import Checked, check
from tests.models.architectures import long_rope_config, save

ORIGINAL = 90


@pytest.fixture(scope="module")
def long_rope(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Phi-3 of the bundled vocabulary whose frequencies change beyond 90 tokens."""
    return save(long_rope_config(ORIGINAL, vocab=259), tmp_path_factory.mktemp("long-rope"))


def settings(student: str, teacher: str, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "student": student,
        "teachers": [teacher],
        "task": "demo:addition",
        "methods": ["gkd"],
        "limit": 2,
        "num_rollouts": 1,
        "nodes": 2,
        "continuations": 2,
        "engine": "transformers",
        "output_dir": str(folder),
        **more,
    }


def checked(*names: str, folder: Path, **more: Any) -> Checked:
    return check(ScoreConfig.build(settings(names[0], names[1], folder, **more)))


def test_a_student_that_may_pass_the_switch_is_refused_before_rollouts(
    long_rope: str, tmp_path: Path
) -> None:
    with pytest.raises(ContextOverflowError, match=r"of the student, 90 \(beyond 90") as refusal:
        gradalign.score(**settings(long_rope, "demo:strong", tmp_path / "run", max_tokens=85))
    assert "longrope" in refusal.value.message
    assert "--max-tokens" in refusal.value.hint
    assert "--sample-id" in refusal.value.hint
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_teacher_whose_context_passes_the_switch_is_refused(
    long_rope: str, tmp_path: Path
) -> None:
    """The student's prompts stay below it, and the teacher's do not."""
    checked("demo:student", long_rope, folder=tmp_path, max_tokens=20)
    shown = f"{long_rope}+system:{'Add slowly. ' * 12}"
    with pytest.raises(ContextOverflowError, match=r"teacher .*system.*whose context is 90 \(bey"):
        checked("demo:student", shown, folder=tmp_path, max_tokens=20)


def test_responses_are_kept_below_the_switch_where_nobody_says_how_long(
    long_rope: str, tmp_path: Path
) -> None:
    found = checked(long_rope, "demo:strong", folder=tmp_path)
    longest = max(found.prompts.lengths)
    assert found.resolved.max_tokens == ORIGINAL - longest
    assert found.resolved.max_model_len == ORIGINAL


def test_an_attempt_that_a_teacher_will_be_shown_is_foreseen(
    long_rope: str, tmp_path: Path
) -> None:
    """Its length is that of a response at most: the note, the attempt and the response must fit."""
    folder = tmp_path / "wide"
    wide = save(long_rope_config(400, vocab=259, context=800), folder)
    found = checked("demo:student", f"{wide}+sibling", folder=tmp_path / "run", limit=1)
    (question,) = found.questions
    context, reader = found.teachers[0].context, found.teachers[0].reader
    text = "1" * found.resolved.max_tokens  # a token each
    attempt = gradalign.tasks.Attempt("a", text, 1.0)
    prompt = reader.render(question, context.prompt(question, None, [attempt]), "")
    assert 396 <= len(prompt) + found.resolved.max_tokens <= 400


def test_a_server_of_the_student_must_use_the_same_frequencies(
    long_rope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Served:
        """What a server with a longer context answers."""

        def __init__(self, spec: Any, **_: Any) -> None:
            self.longest_server_len = 512
            self.server_len = 512
            self.limits = SimpleNamespace(vocab_size=259)

        def __enter__(self) -> Served:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, bodies: list[Any]) -> list[Any]:
            return bodies

    monkeypatch.setattr("gradalign.engines.server.engine.ServerEngine", Served)
    url = "http://127.0.0.1:9"
    served = {"engine": "server", "base_urls": [url]}
    with pytest.raises(UsageError, match="long longrope frequencies") as refusal:
        checked(long_rope, "demo:strong", folder=tmp_path, max_tokens=20, **served)
    assert "--max-model-len 90" in refusal.value.hint
    with pytest.raises(UsageError, match="--teacher-base-url: the server has a context of 512"):
        checked(
            long_rope,
            "self+answer",
            folder=tmp_path,
            max_tokens=20,
            teacher_base_urls=[f"self={url}"],
        )
    # A teacher that is read on its server alone is one function there.
    checked(
        "demo:student",
        long_rope,
        folder=tmp_path,
        max_tokens=20,
        teacher_base_urls=[f"{long_rope}={url}"],
    )


def test_a_state_space_model_as_student_and_teacher(tmp_path: Path) -> None:
    """Its forward takes no positions, and it has no attention heads."""
    config = transformers.MambaConfig(
        vocab_size=259, eos_token_id=2, hidden_size=32, num_hidden_layers=2, state_size=8
    )
    mamba = save(config, tmp_path / "mamba")
    run = settings(mamba, mamba, tmp_path / "run", limit=1, max_tokens=12, alignment="weights")
    gradalign.score(**{**run, "num_rollouts": 3, "methods": ["gkd", "minillm"]})
    questions = pq.read_table(tmp_path / "run" / "questions").to_pylist()
    spines = {
        row["spine_id"]: row for row in pq.read_table(tmp_path / "run" / "spines").to_pylist()
    }
    rows = pq.read_table(tmp_path / "run" / "distributions").to_pylist()
    assert len(rows) == 6
    with loaded_model(mamba, device="cpu") as model:
        for row in rows:
            response = spines[row["spine_id"]]["token_ids"][: row["position"]]
            ids = torch.tensor([[*questions[0]["prompt_ids"], *response]])
            with torch.no_grad():
                own = torch.log_softmax(model(ids).logits[0, -1], -1)
            wanted = own[torch.tensor(row["token_ids"])]
            np.testing.assert_allclose(row["student_logprobs"], wanted, atol=1e-4)
            np.testing.assert_allclose(row["teacher_logprobs"], wanted, atol=1e-4)

"""What is mixed into vLLM's workers, without vLLM: logits cut, and held to be numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from gradalign.engines.vllm.extension import Check, CutLogits


class Event:
    """A GPU's event, which has come or not."""

    def __init__(self, *, come: bool) -> None:
        self.come = come

    def query(self) -> bool:
        return self.come


def cut(logits: torch.Tensor, names: list[str]) -> tuple[CutLogits, Any]:
    """A worker whose model gives these logits; the tokens are 0, 1 and 3."""
    worker = CutLogits()
    worker.model_runner = SimpleNamespace(
        model=SimpleNamespace(compute_logits=lambda: logits.clone()),
        input_batch=SimpleNamespace(req_ids=names),
    )
    worker.gradalign_cut([[0, 2], [3, 4]])
    return worker, worker.model_runner.model


def test_ids_outside_have_no_mass_and_numbers_pass() -> None:
    worker, model = cut(torch.zeros(2, 6), ["7", "8"])
    logits = model.compute_logits()
    assert logits.isneginf().tolist() == [[False, False, True, False, True, True]] * 2
    assert worker.gradalign_broken() is None


def test_broken_logits_are_told_once_and_by_name() -> None:
    logits = torch.zeros(3, 6)
    logits[1, 0] = torch.nan
    logits[2, [0, 1, 3]] = -torch.inf
    worker, model = cut(logits, ["7", "8", "9"])
    model.compute_logits()
    assert worker.gradalign_broken() == ["8", "9"]
    assert worker.gradalign_broken() is None
    worker, model = cut(logits, [])
    model.compute_logits()
    assert worker.gradalign_broken() == [], "of whom is not known"


def test_what_a_gpu_has_not_answered_yet_is_asked_for_later() -> None:
    worker, _ = cut(torch.zeros(1, 6), ["7"])
    event = Event(come=False)
    fine_B = torch.tensor([False])
    worker.gradalign_found.append(Check(fine_B, fine_B.all(), event, ["7"]))
    assert worker.gradalign_broken() is None
    event.come = True
    assert worker.gradalign_broken() == ["7"]
    assert worker.gradalign_broken() is None

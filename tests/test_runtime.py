"""When a closed model's memory is looked for."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from gradalign import runtime
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.models import loaded_model
from tests.rollouts.conftest import make_model, tree_requests


@pytest.fixture(autouse=True)
def _only_what_is_asked_for():
    """No collection of Python's own; nothing waits from other tests."""
    runtime.free_memory("cpu")
    gc.disable()
    yield
    gc.enable()


def in_a_circle():
    """Something that goes only with a collection."""
    model = torch.nn.Linear(2, 2)
    model.itself = [model]
    return weakref.ref(model)


def test_small_models_wait_until_there_are_many_bytes_of_them():
    gone = in_a_circle()
    for _ in range(3):
        runtime.model_let_go(runtime.PATIENCE // 3, "cpu")
        assert gone() is not None
    runtime.model_let_go(runtime.PATIENCE // 3, "cpu")
    assert gone() is None
    later = in_a_circle()
    runtime.model_let_go(runtime.PATIENCE // 3, "cpu")
    assert later() is not None, "counting begins anew"


def test_a_large_model_does_not_wait():
    gone = in_a_circle()
    runtime.model_let_go(runtime.PATIENCE + 1, "cpu")
    assert gone() is None


def test_a_gpus_memory_is_given_back_at_once(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    gone = in_a_circle()
    runtime.model_let_go(1, "cuda:0")
    assert gone() is None
    assert emptied == [True]
    runtime.model_let_go(1, "cpu")
    assert emptied == [True]


def test_a_loaded_model_counts_with_its_weights(monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "gradalign.models.checkpoints.loading.model_let_go",
        lambda size, device: sizes.append((size, device)),
    )
    with loaded_model("demo:student", device="cpu") as model:
        expected = sum(weight.nbytes for weight in model.parameters())
    with TransformersEngine("demo:student", device="cpu"):
        pass
    assert sizes == [(expected, "cpu")] * 2, "once for each"


def test_out_of_memory_collects_whatever_the_size(monkeypatch):
    model, requests, calls = make_model("qwen3"), tree_requests(count=2), []
    forward = model.forward

    def scarce(*arguments, **keywords):
        if not calls:
            calls.append(in_a_circle())
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(*arguments, **keywords)

    with TransformersEngine(model, max_rows=8) as engine:
        monkeypatch.setattr(model, "forward", scarce)
        assert len(list(engine.generate(requests))) == len(requests)
    assert calls[0]() is None


def test_free_memory_is_the_machines_or_what_a_container_leaves(tmp_path):
    import os

    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 2**26 < runtime.available_bytes("cpu") <= total
    assert runtime.group_bytes(tmp_path) > total, "no group, no limit"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 1000\ninactive_file 500\n")
    assert runtime.group_bytes(tmp_path) > total
    (tmp_path / "memory.max").write_text("10000\n")
    assert runtime.group_bytes(tmp_path) == 7500

"""Models whose numbers depend on what shares a pass, and models that cannot be read at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gradalign.engines import Request
from gradalign.engines.transformers.engine import TransformersEngine
from gradalign.errors import ModelError
from gradalign.models.continuations import Offshoot, copies_agree, offshoot_logprobs
from gradalign.models.distributions import ForcedSequence, forced_log_probs, forced_passes
from gradalign.models.forward import Sharing, logit_gap, sharing_of
from tests.models.architectures import VOCAB, make


def crowded() -> Any:
    """A model whose rows disturb one another, as with experts of bounded capacity."""
    model = make("qwen2")
    model.lm_head.register_forward_hook(lambda _, __, out: out + out.mean(0, keepdim=True))
    return model


@pytest.mark.parametrize(
    ("name", "sharing", "copies"),
    [
        ("qwen2", Sharing.PADDED, True),
        ("gemma3", Sharing.PADDED, True),
        ("mamba", Sharing.PADDED, False),
        ("jamba", Sharing.PADDED, False),
        ("recurrent_gemma", Sharing.EQUAL, False),
        ("rwkv", Sharing.EQUAL, False),
    ],
)
def test_what_may_share_a_pass_is_found_out(name: str, sharing: Sharing, copies: bool) -> None:
    model = make(name)
    assert sharing_of(model) is sharing
    assert copies_agree(model) is copies


def test_half_precision_is_not_taken_for_a_fault() -> None:
    for name in ("qwen2", "qwen3_moe", "gemma3"):
        model = make(name).to(torch.bfloat16)
        assert sharing_of(model) is Sharing.PADDED
        assert copies_agree(model)


def test_padding_that_is_read_is_found_out_in_half_precision() -> None:
    assert sharing_of(make("recurrent_gemma").to(torch.bfloat16)) is Sharing.EQUAL


def test_the_trial_is_made_once() -> None:
    model, calls = make("qwen2"), []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    sequences = [ForcedSequence([5, 6], [7, 8]), ForcedSequence([5], [9])]
    list(forced_log_probs(model, sequences))
    tried = len(calls) - 1
    list(forced_log_probs(model, sequences))
    assert len(calls) == tried + 2
    handle.remove()


def test_rows_that_disturb_one_another_are_read_one_at_a_time() -> None:
    model = crowded()
    assert sharing_of(model) is Sharing.NONE
    rng = np.random.default_rng(0)
    sequences = [
        ForcedSequence(rng.integers(3, VOCAB, 4).tolist(), rng.integers(3, VOCAB, 5).tolist())
        for _ in range(5)
    ]
    for i, found in forced_log_probs(model, sequences):
        ids = torch.tensor([[*sequences[i].prompt_ids, *sequences[i].response_ids]])
        with torch.no_grad():
            wanted = torch.log_softmax(model(ids).logits[0, 3:-1], -1)
        np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_rows_that_disturb_one_another_are_sampled_one_at_a_time() -> None:
    model = crowded()
    requests = [Request((5, 9, 11 + i), 5, 77 + i) for i in range(6)]
    with TransformersEngine(model, max_model_len=64) as engine:
        together = {i: c.token_ids.tolist() for i, c in engine.generate(requests)}
        for i, request in enumerate(requests):
            ((_, alone),) = engine.generate([request])
            assert together[i] == alone.token_ids.tolist()
        ids = [request.prompt_ids for request in requests]
        apart = [engine.logprobs([one], [1])[0] for one in ids]
        np.testing.assert_allclose(engine.logprobs(ids, [1] * 6), apart, atol=1e-5)


def test_a_cache_that_is_wrong_is_not_used() -> None:
    """Layers that say nothing of their kind, and keys that count twice behind a cache."""
    model = make("qwen2")

    def spoil(module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        cache = kwargs.get("past_key_values")
        if cache is not None and cache.get_seq_length():
            cache.layers[0].keys.mul_(1.5)
        return args, kwargs

    model.register_forward_pre_hook(spoil, with_kwargs=True)
    assert not copies_agree(model)
    trunk, offshoots = [5, 6, 7, 8, 9, 10], [Offshoot(2, [11, 12, 13]), Offshoot(6, [4, 5])]
    for item, scores in zip(offshoots, offshoot_logprobs(model, trunk, offshoots), strict=True):
        ids = [*trunk[: item.start], *item.token_ids]
        with torch.no_grad():
            own = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0], -1)
        wanted = own[item.start : -1].gather(1, torch.tensor(item.token_ids[1:])[:, None])[:, 0]
        np.testing.assert_allclose(scores, wanted, atol=1e-4)


@pytest.mark.parametrize("name", ["bert", "xlnet"])
def test_a_model_that_looks_ahead_is_refused(name: str) -> None:
    model = make(name)
    with pytest.raises(ModelError, match=r"not causal.*is_decoder"):
        list(forced_log_probs(model, [ForcedSequence([5, 6], [7, 8])]))
    with pytest.raises(ModelError, match="not causal"):
        TransformersEngine(model)


def test_a_model_that_draws_at_random_is_refused() -> None:
    model = make("qwen2")
    model.lm_head.register_forward_hook(lambda _, __, out: out + torch.randn_like(out))
    with pytest.raises(ModelError, match="other logits for the same tokens"):
        sharing_of(model)


def test_a_model_whose_pass_fails_is_refused_with_the_cause() -> None:
    model = make("qwen2")

    def fail(*_: Any) -> None:
        raise RuntimeError("sizes do not match")

    model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(ModelError, match=r"forward pass fails with RuntimeError: sizes do not"):
        sharing_of(model)


def test_logits_that_are_no_numbers_are_no_fault_of_the_batch() -> None:
    model = make("qwen2")
    model.model.norm.weight.data[:] = float("nan")
    assert sharing_of(model) is Sharing.PADDED
    truth = torch.tensor([[1.0, 2.0, float("-inf")]])
    assert logit_gap(truth, torch.tensor([[1.0, 2.0, 5.0]])) == 0.0
    assert logit_gap(truth, torch.tensor([[1.0, float("nan"), 5.0]])) == float("inf")


@pytest.mark.parametrize("name", ["qwen2", "recurrent_gemma", "mamba"])
def test_what_the_output_layer_reads_is_that_of_each_sequence_alone(name: str) -> None:
    model, rng = make(name), np.random.default_rng(3)
    sequences = [
        ForcedSequence(rng.integers(3, VOCAB, p).tolist(), rng.integers(3, VOCAB, r).tolist())
        for p, r in ((2, 6), (9, 3), (4, 4))
    ]
    together = {i: read.hidden_LD for i, read in forced_passes(model, sequences, with_hidden=True)}
    assert sorted(together) == [0, 1, 2]
    caught: list[torch.Tensor] = []
    handle = model.get_output_embeddings().register_forward_pre_hook(
        lambda _, inputs: caught.append(inputs[0])
    )
    for i, sequence in enumerate(sequences):
        with torch.no_grad():
            model(torch.tensor([[*sequence.prompt_ids, *sequence.response_ids]]))
        wanted = caught[-1][0, len(sequence.prompt_ids) - 1 : -1]
        np.testing.assert_allclose(together[i], wanted, atol=1e-4)
    handle.remove()


@pytest.mark.parametrize("name", ["mamba", "recurrent_gemma", "mistral"])
def test_a_sequence_scored_in_pieces(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [tuple(map(int, np.random.default_rng(4).integers(3, VOCAB, 40)))]
    with TransformersEngine(make(name), max_model_len=64) as engine:
        whole = engine.logprobs(ids, [1])[0]
        monkeypatch.setattr("gradalign.engines.transformers.scoring._LOGITS", 9 * VOCAB)
        pieces = engine.logprobs(ids, [1])[0]
    np.testing.assert_allclose(pieces, whole, atol=1e-4)

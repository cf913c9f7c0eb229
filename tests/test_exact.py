"""The enumerator against brute force, against sampling, and against itself."""

import itertools

import numpy as np
import pytest
import torch
from exact import addition_reward, exact_policy_tables, exact_value, exact_values
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from gradalign.demo import model_path
from gradalign.demo.addition import MAX_RESPONSE_TOKENS, Problem, generate

STOP = 2


@pytest.fixture(scope="module")
def student():
    folder = model_path("student")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def small():
    """A random model with a vocabulary of five, so that every response can be listed."""
    config = Qwen3Config(
        vocab_size=5,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        initializer_range=0.6,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Qwen3ForCausalLM(config).eval()


def parity(token_ids):
    """A reward that depends on every token and is not only 0 or 1."""
    return sum((i + 1) * t for i, t in enumerate(token_ids)) % 7 / 6


@torch.inference_mode()
def brute_force(model, prompt, prefix, max_tokens, reward):
    """Sum over every sequence of the vocabulary, each scored by a forward pass of its own."""
    total = ended = 0.0
    for length in range(1, max_tokens - len(prefix) + 1):
        for tail in itertools.product(range(5), repeat=length):
            if tail[-1] != STOP or STOP in tail[:-1]:
                continue
            ids = torch.tensor([[*prompt, *prefix, *tail]])
            logp = model(ids).logits[0].double().log_softmax(-1)
            at = range(len(prompt) + len(prefix) - 1, ids.shape[1] - 1)
            prob = float(logp[list(at), list(tail)].sum().exp())
            total += prob * reward([*prefix, *tail])
            ended += prob
    return total, ended


@pytest.mark.parametrize("prefix", [(), (0,), (4, 1)])
def test_value_equals_brute_force(small, prefix):
    want, ended = brute_force(small, (1, 3), prefix, 5, parity)
    got = exact_value(
        small, (1, 3), prefix, reward=parity, stop_ids=[STOP], max_tokens=5, min_mass=0.0
    )
    assert 0.0 < ended < 1.0
    assert got.value == pytest.approx(want, abs=2e-6)
    assert got.lost == pytest.approx(0.0, abs=1e-12)


def test_branches_equal_brute_force(small):
    spine = (0, 3, 1, 2)
    positions = [2, 0, 3]
    candidates = [[1, 2, 4], [0, 2], [2, 3]]
    branches = exact_values(
        small, (1, 3), spine, positions, candidates,
        reward=parity, stop_ids=[STOP], max_tokens=5, min_mass=0.0,
    )  # fmt: skip
    for position, tokens, values in zip(positions, candidates, branches.values, strict=True):
        for token, value in zip(tokens, values, strict=True):
            prefix = (*spine[:position], token)
            if token == STOP:
                want = parity(prefix)
            else:
                want, _ = brute_force(small, (1, 3), prefix, 5, parity)
            assert value == pytest.approx(want, abs=2e-6)


def test_lost_mass_bounds_the_error(small):
    options = {"reward": parity, "stop_ids": [STOP], "max_tokens": 8}
    full = exact_value(small, (1, 3), min_mass=0.0, **options)
    rough = exact_value(small, (1, 3), min_mass=1e-3, **options)
    assert rough.num_prefixes < full.num_prefixes
    assert 0.0 < rough.lost < 0.9
    assert rough.value <= full.value <= rough.value + rough.lost


def test_shared_tree_is_as_fine_as_a_tree_per_branch(student):
    model, tokenizer = student
    problem = Problem(358, 967)
    prompt = tokenizer(problem.prompt)["input_ids"]
    spine = tokenizer("8+7=15,5+6=11,3+9+1=13,1315", add_special_tokens=False)["input_ids"]
    reward = addition_reward(tokenizer, problem.answer)
    positions = [4, 9, 11, 25]
    tables_PV = exact_policy_tables(model, prompt, spine, positions)
    candidates = [np.argsort(-row)[:4].tolist() for row in tables_PV]
    options = {"reward": reward, "stop_ids": [STOP], "max_tokens": MAX_RESPONSE_TOKENS}
    shared = exact_values(model, prompt, spine, positions, candidates, **options)
    for row, (position, tokens) in enumerate(zip(positions, candidates, strict=True)):
        for column, token in enumerate(tokens):
            alone = exact_value(model, prompt, (*spine[:position], token), **options)
            assert shared.lost[row][column] <= alone.lost + 1e-6
            assert alone.value - 1e-6 <= shared.values[row][column]
            assert shared.values[row][column] <= alone.value + alone.lost + 1e-6
    # Bellman: a node's value is the policy's mean over its children, up to what was lost.
    node = exact_value(model, prompt, spine[: positions[1]], **options)
    likely = np.flatnonzero(tables_PV[1] > 1e-4)
    children = exact_values(model, prompt, spine, [positions[1]], [likely], **options)
    mean = tables_PV[1][likely] @ children.values[0]
    unknown = 1.0 - tables_PV[1][likely] @ (1.0 - children.lost[0])
    assert unknown < 0.05
    assert node.value - 1e-6 <= mean + unknown
    assert mean <= node.value + node.lost + 1e-6


def test_policy_tables_are_the_models_probabilities(student):
    model, tokenizer = student
    prompt = tokenizer("12+34=")["input_ids"]
    spine = tokenizer("2+4=6", add_special_tokens=False)["input_ids"]
    tables_PV = exact_policy_tables(model, prompt, spine, [0, 3])
    assert tables_PV.shape == (2, len(tokenizer))
    assert tables_PV.dtype == np.float64
    np.testing.assert_allclose(tables_PV.sum(axis=1), 1.0, atol=1e-12)
    with torch.inference_mode():
        direct = model(torch.tensor([[*prompt, *spine[:3]]])).logits[0, -1].double().softmax(-1)
    np.testing.assert_allclose(tables_PV[1], direct.numpy(), atol=1e-6)


def test_value_agrees_with_sampling(student):
    model, tokenizer = student
    count = 400
    errors = []
    for problem in generate(6, seed=77):
        prompt = tokenizer(problem.prompt)["input_ids"]
        reward = addition_reward(tokenizer, problem.answer)
        exact = exact_value(
            model, prompt, reward=reward, stop_ids=[STOP],
            max_tokens=MAX_RESPONSE_TOKENS, min_mass=1e-6,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(problem.a)
            output = model.generate(
                input_ids=torch.tensor([prompt]).expand(count, -1),
                attention_mask=torch.ones(count, len(prompt), dtype=torch.long),
                do_sample=True, temperature=1.0, top_p=1.0, top_k=0,
                max_new_tokens=MAX_RESPONSE_TOKENS,
            )  # fmt: skip
        mean = np.mean([reward(ids) for ids in output[:, len(prompt) :].tolist()])
        assert exact.lost < 0.02
        middle = exact.value + exact.lost / 2
        errors.append((mean - middle) / np.sqrt(middle * (1 - middle) / count))
    assert np.abs(errors).max() < 3.5
    assert abs(np.mean(errors)) < 3 / np.sqrt(len(errors))


def test_bad_positions(student):
    model, _ = student
    options = {"reward": parity, "stop_ids": [STOP], "max_tokens": 8}
    with pytest.raises(ValueError, match="spine of 3"):
        exact_values(model, (1, 3), (4, 4, 2), [3], [[1]], **options)
    with pytest.raises(ValueError, match="differ"):
        exact_values(model, (1, 3), (4, 4, 2), [1, 1], [[1], [2]], **options)

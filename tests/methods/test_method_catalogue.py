"""Names, options, specs, listings, plugins, and a user's own method."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest

from gradalign.errors import UnknownNameError, UsageError
from gradalign.methods import Method, NodeBatch, SampledToken, get, method_class, names
from gradalign.registry import Registry
from tests.methods.made_up import logits

EXPECTED = {
    "gkd",
    "minillm",
    "dr_grpo",
    "opd",
    "opsd",
    "uniform_negative",
    "random",
    "trl/gkd",
    "trl/distillation",
    "trl/server_distillation",
    "trl/sdpo",
    "trl/iw_opd",
    "trl/minillm",
    "verl/k1",
    "verl/k2",
    "verl/k3",
    "verl/abs",
    "verl/forward_kl_topk",
    "thunlp/opd",
    "tinker/sdft_reverse",
    "lmops/minillm",
    "trl/async_distillation",
    "trl/sdft",
    "verl/forward_kl_topk_tail",
    "verl/reverse_kl_topk",
    "verl/topk_reward",
    "tinker/sdft",
    "swift/sdar",
    "swift/rlsd",
    "nemo/distillation",
    "roll/distill",
    "miles/opd_topk",
    "torchrl/distillation",
}


def test_catalogue_is_complete():
    assert set(names()) >= EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_method_describes_itself(name):
    cls = method_class(name)
    assert cls.formula
    assert "\n" not in cls.formula
    assert cls.source
    assert cls.__doc__
    assert cls.registered_name == name
    method = get(name)
    assert method.name == method.spec == name
    assert method.needs <= {"teacher", "continuations", "continuation_scores", "spine"}
    for item in cls.options():
        assert item.help
        assert item.type in ("bool", "int", "float", "str")
    assert get(method.full_spec) == method


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("gkd:beta=0.5", "gkd"),
        ("gkd:beta=1.0", "gkd:beta=1"),
        (" gkd : temperature = 1.70 , beta=0.25 ", "gkd:beta=0.25,temperature=1.7"),
        ("opd:stop_gradient=Yes,top_k=16", "opd:top_k=16,stop_gradient=true"),
        ("verl/k3:max_clamp=10", "verl/k3:max_clamp=10"),
        ("gkd:beta=0.1234567890123456", "gkd:beta=0.1234567890123456"),
    ],
)
def test_canonical_specs(spec, canonical):
    assert get(spec).spec == canonical
    assert get(canonical) == get(spec)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("gkd:bta=1", ["no option 'bta'", "beta", "temperature"]),
        ("gkd:beta=x", ["beta", "float", "'x'"]),
        ("gkd:beta=1.5", ["beta", "at most 1", "1.5"]),
        ("gkd:beta=nan", ["beta"]),
        ("gkd:temperature=0", ["temperature", "greater than 0"]),
        ("opd:support=bth", ["support", "union", "intersection"]),
        ("opd:top_k=1.5", ["top_k", "int"]),
        ("opd:stop_gradient=maybe", ["stop_gradient", "true or false"]),
        ("uniform_negative:advantage=1", ["advantage"]),
        ("dr_grpo:group=1", ["group", "at least 2"]),
        ("trl/server_distillation:beta=0.5,top_k=2", ["top_k must be 1"]),
        ("trl/sdpo:mode=topk_logits", ["top_k must be given"]),
        ("trl/sdpo:alpha=0.5", ["alpha=1"]),
        ("gkd:beta", ["has no value"]),
    ],
)
def test_wrong_options(spec, words):
    with pytest.raises(UsageError) as caught:
        get(spec)
    for word in words:
        assert word in str(caught.value)


def test_unknown_names_list_the_known():
    with pytest.raises(UnknownNameError, match="verl/k3"):
        get("verl/k9")
    with pytest.raises(UnknownNameError, match="Did you mean 'gkd'"):
        get("gdk:beta=1")


def test_unknown_estimator():
    student, teacher, _ = logits("far", nodes=2, vocab=4)
    with pytest.raises(UsageError, match="expected, sampled"):
        get("gkd").ascent(NodeBatch.from_logits(student, teacher), "mean")


@pytest.mark.parametrize("options", ["", ":limit=2.5"])
def test_a_users_own_method(options):
    """The example of CONTRIBUTING: expected against the formula, written out."""
    spec = "tests.methods.example_method:TruncatedKL" + options
    method = get(spec)
    assert method.spec == spec
    student, teacher, sampled = logits("far", nodes=8, vocab=30)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    p = np.exp(batch.log_p_NS)
    limit = 2.5 if options else 5.0
    f = np.clip(batch.log_q_NS - batch.log_p_NS, -limit, limit)
    wanted = p * (f - (p * f).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(method.ascent(batch), wanted, atol=1e-14)
    np.testing.assert_array_equal(method.ascent(batch, "sampled"), method.ascent(batch))
    assert (method.variance_ratio(batch) == 0.0).all()
    with pytest.raises(UsageError, match="limit"):
        get("tests.methods.example_method:TruncatedKL:limits=3")


def test_module_specs_that_are_not_methods():
    with pytest.raises(UnknownNameError, match="Missing"):
        get("tests.methods.example_method:Missing")
    with pytest.raises(UsageError, match="subclass"):
        get("tests.methods.example_method:dataclass")


class FakePoint:
    """An entry point that was never installed."""

    def __init__(self, name, load):
        self.name, self.load, self.value = name, load, f"somewhere:{name}"


def test_entry_points(monkeypatch):
    from tests.methods.example_method import TruncatedKL

    def broken():
        raise RuntimeError("no such thing")

    points = [FakePoint("mine/truncated", lambda: TruncatedKL), FakePoint("bad", broken)]
    groups = []

    def entry_points(group):
        groups.append(group)
        return points

    monkeypatch.setattr("gradalign.registry.entry_points", entry_points)
    registry = Registry("method", "gradalign.methods")
    monkeypatch.setattr("gradalign.methods.registry.REGISTRY", registry)
    with pytest.warns(UserWarning, match="bad"):
        assert names() == ["mine/truncated"]
    assert groups == ["gradalign.methods"]
    assert get("mine/truncated:limit=2").spec == "mine/truncated:limit=2"


def test_a_users_own_sampled_method():
    @dataclass(frozen=True)
    class Clipped(SampledToken):
        formula = "clip(r_y, -1, 1) (e_y - P)"

        def draws(self, batch):
            from gradalign.methods import Draws

            nodes = batch.at(1.0)
            return Draws(nodes, nodes.r_NS.clip(-1, 1), nodes.tail_r_N.clip(-1, 1))

    student, teacher, sampled = logits("far", nodes=5, vocab=7)
    batch = NodeBatch.from_logits(student, teacher, sampled)
    p = np.exp(batch.log_p_NS)
    weight = np.clip(batch.log_q_NS - batch.log_p_NS, -1, 1)
    single = Clipped().ascent(batch, "sampled")
    one_hot = np.eye(7)[sampled]
    rows = np.arange(5)
    np.testing.assert_allclose(single, weight[rows, sampled, None] * (one_hot - p), atol=1e-14)
    assert isinstance(Clipped(), Method)


def test_importing_methods_does_not_import_torch():
    heavy = "{'torch', 'transformers'}"
    code = f"import sys, gradalign.methods; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

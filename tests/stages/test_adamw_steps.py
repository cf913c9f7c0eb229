"""Gains of steps that AdamW takes, against steps that torch's AdamW took."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import gradalign
from gradalign.errors import RunError, UsageError
from gradalign.models import loaded_model
from gradalign.models.optimizer_state import adamw_step
from tests.stages.test_weights_level import SETTINGS, responses_by_hand

pytestmark = pytest.mark.usefixtures("exact_sketches")

BATCH = 2
PLAIN = {**SETTINGS, "node_sampler": "all", "methods": ["opd"], "weights_batch": BATCH}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adamw") / "run"
    settings = {**PLAIN, "weights_adamw": "first"}
    return gradalign.score(**settings, alignment="weights", output_dir=str(folder))


def step_of(update, optimizer_of, scale=1.0):
    """Give torch's optimizer the gradient of a loss that falls along `update`; return the move."""
    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        own, optimizer = list(model.parameters()), optimizer_of(model)
        before = torch.cat([p.detach().flatten() for p in own]).double()
        begin = 0
        for parameter in own:
            part = update[begin : begin + parameter.numel()]
            parameter.grad = (-scale * part).float().view_as(parameter)
            begin += parameter.numel()
        optimizer.step()
        return torch.cat([p.detach().flatten() for p in own]).double() - before


def fresh(model):
    return torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-30, weight_decay=0.0)


def gain_by_hand(ideal, own, groups, optimizer_of, scale=1.0):
    """Mean over pairs of groups: success that one's step of length 1 gains for the other."""
    steps = [
        step_of(sum(own[q] for q in group) / len(group), optimizer_of, scale) for group in groups
    ]
    means = [sum(ideal[q] for q in group) / len(group) for group in groups]
    return np.mean(
        [
            float(means[i] @ steps[j] / steps[j].norm())
            for i, j in itertools.permutations(range(len(groups)), 2)
        ]
    )


def halves_by_hand(run):
    return tuple(
        [sum(group) / 2 for group in responses_by_hand(run, teacher, method)]
        for teacher, method in (("", "ideal"), ("demo:strong", "opd"))
    )


def row_of(run):
    return run.summary.query("split == 'all' and method == 'opd'").iloc[0]


SINGLE = [[q] for q in range(SETTINGS["limit"])]
BATCHES = [[0, 1], [2, 3], [4, 5]]  # the second crosses the border of two shards


@pytest.mark.parametrize(
    ("column", "groups"), [("weights_adamw_one", SINGLE), ("weights_adamw", BATCHES)]
)
def test_the_first_step_is_what_torch_takes(first, column, groups):
    wanted = gain_by_hand(*halves_by_hand(first), groups, fresh)
    row = row_of(first)
    assert row[column] == pytest.approx(wanted, rel=0.01)
    assert row[f"{column}_low"] < row[column] < row[f"{column}_high"]


def trained(model, names):
    """An optimizer that has taken three steps, on gradients of its own."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": decayed}, {"params": others}] if names == "groups" else model.parameters()
    if names == "names":
        groups = list(model.named_parameters())
    optimizer = torch.optim.AdamW(groups, lr=1e-9, weight_decay=0.0)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for number, parameter in enumerate(model.parameters()):
            size = 10.0 ** -(number % 4)
            parameter.grad = size * torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return optimizer


def goes_on(model):
    """That optimizer before a step whose own gradient leaves the moments as they are."""
    optimizer = trained(model, "order")
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
    optimizer.param_groups[0]["lr"] = 1e3
    return optimizer


def moments_file(folder, kind):
    """Write the optimizer's second moments as one kind of file; return what names it."""
    from safetensors.torch import save_file

    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        optimizer = trained(model, kind)
        if kind == "safetensors":
            file = folder / "moments.safetensors"
            moments = {
                f"{name}.exp_avg_sq": optimizer.state[parameter]["exp_avg_sq"] / (1 - 0.999**3)
                for name, parameter in model.named_parameters()
            }
            save_file(moments, file)
        else:
            file = folder / "optimizer.pt"
            torch.save(optimizer.state_dict(), file)
    return str(file if kind != "groups" else folder)


def test_a_later_step_is_what_torch_takes_with_the_moments_of_a_file(tmp_path):
    settings = {**PLAIN, "weights_adamw": moments_file(tmp_path, "groups")}
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    wanted = gain_by_hand(*halves_by_hand(run), BATCHES, goes_on, scale=1e-6)
    assert row_of(run)["weights_adamw"] == pytest.approx(wanted, rel=2e-3)


@pytest.mark.parametrize("kind", ["order", "groups", "names", "safetensors"])
def test_every_kind_of_file_has_the_moments(kind, tmp_path):
    source = moments_file(tmp_path, kind)
    with loaded_model("demo:student", device="cpu", dtype="float32") as model:
        parameters = list(model.parameters())
        generator = torch.Generator().manual_seed(5)
        update = [torch.randn(p.shape, generator=generator) for p in parameters]
        found = adamw_step(source, model, parameters).of(update)
    flat, found = (torch.cat([part.flatten() for part in parts]) for parts in (update, found))
    wanted = step_of(flat.double(), goes_on, scale=1e-6)
    found = found.double() / found.double().norm()
    torch.testing.assert_close(found, wanted / wanted.norm(), rtol=1e-3, atol=1e-6)


def test_a_run_goes_on_between_batches(first, tmp_path, monkeypatch):
    """What is there of a shard stays; a new method adds its own steps."""
    settings = {**PLAIN, "weights_adamw": "first", "methods": ["gkd"]}
    run = gradalign.score(**settings, alignment="weights", output_dir=str(tmp_path / "run"))
    more = gradalign.rescore(run.path, methods=["opd"])
    for column in ("weights_adamw", "weights_adamw_one"):
        assert row_of(more)[column] == pytest.approx(row_of(first)[column], rel=1e-6)
    table = more.table("steps")
    assert len(table) == 2 * (len(SINGLE) + len(BATCHES))
    lengths = table["sketch"].map(np.linalg.norm)
    np.testing.assert_allclose(lengths, 1.0, rtol=1e-3)


def test_a_run_with_more_questions_has_what_one_of_as_many_has(first, tmp_path):
    """Five questions leave a batch half full; the sixth fills it, and is new to all derivatives."""
    settings = {**PLAIN, "weights_adamw": "first", "output_dir": str(tmp_path / "run")}
    gradalign.score(**{**settings, "limit": 5}, alignment="weights")
    more = gradalign.score(**settings, alignment="weights")
    columns = ["weights_gain", "weights_adamw", "weights_adamw_one", "weights_adamw_low"]
    np.testing.assert_allclose(
        row_of(more)[columns].astype(float), row_of(first)[columns].astype(float), rtol=1e-5
    )
    keys = ["node_id", "teacher", "method"]
    dots = [
        run.alignment.astype(dict.fromkeys(keys, str)).set_index(keys)["weights_dot"]
        for run in (first, more)
    ]
    scale = dots[0].abs().max()
    np.testing.assert_allclose(dots[0], dots[1].reindex(dots[0].index), atol=1e-3 * scale)


def test_rescoring_adds_steps_and_quarters(first, tmp_path):
    """Beside what is there of the weights, which stays what it is."""
    run = gradalign.score(**PLAIN, alignment="weights", output_dir=str(tmp_path / "run"))
    before = row_of(run)
    assert np.isnan(before["weights_adamw"])
    assert "position:0-25%" not in set(run.table("gradients")["split"])
    with pytest.raises(RunError, match=r"rescore .* --weights-adamw first --weights-quarters"):
        gradalign.score(
            **{**PLAIN, "weights_adamw": "first", "weights_quarters": True},
            alignment="weights",
            output_dir=str(tmp_path / "run"),
        )
    more = gradalign.rescore(run.path, weights_adamw="first", weights_quarters=True)
    after = row_of(more)
    assert after["weights_adamw"] == pytest.approx(row_of(first)["weights_adamw"])
    assert after["weights_gain"] == pytest.approx(before["weights_gain"], rel=1e-6)
    quarter = more.summary.query("split == 'position:0-25%' and method == 'opd'").iloc[0]
    assert quarter["weights_gain_low"] < quarter["weights_gain_high"]
    with pytest.raises(UsageError, match="nothing new"):
        gradalign.rescore(run.path, weights_adamw="first")


def test_files_that_are_none_are_refused_before_the_run(tmp_path):
    other = tmp_path / "other.pt"
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))])
    torch.save(optimizer.state_dict(), other)
    text = tmp_path / "text.pt"
    text.write_text("nothing")
    for source, said in (
        (tmp_path / "none.pt", "there is no such file"),
        (other, "has 1 parameters"),
        (text, "cannot be read"),
    ):
        settings = {**PLAIN, "weights_adamw": str(source), "output_dir": str(tmp_path / "run")}
        with pytest.raises(UsageError, match=said):
            gradalign.score(**settings, alignment="weights")
    assert not (tmp_path / "run").exists()

"""Logits that are not numbers stop a run, by the name of the model and of the question."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradalign.engines import Request, open_engine
from gradalign.engines.server.messages import read_scores, token_logprobs
from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.models.numbers import NotNumbersError
from gradalign_cli.main import main
from tests.models.altered import edited_weights


def spoiled(value: float, position: int, token: int | slice):
    """Return a hook that puts a value into the logits of one position, counted from the end."""

    def hook(_: torch.nn.Module, __: object, output: object) -> object:
        if output.logits.shape[1] >= -position:
            output.logits = output.logits.clone()
            output.logits[:, position, token] = value
        return output

    return hook


EVERY = slice(None)


@pytest.mark.parametrize(
    ("value", "token"),
    [(float("nan"), 7), (float("nan"), EVERY), (float("inf"), 7), (-float("inf"), EVERY)],
)
def test_forced_passes_and_continuations_find_a_single_bad_position(value, token):
    with loaded_model("demo:student", device="cpu") as model:
        sequence = ForcedSequence([1, 5, 6], [7, 8, 9])
        offshoots = [Offshoot(4, [9, 10, 11]), Offshoot(3, [9, 10, 11])]
        assert len(list(forced_log_probs(model, [sequence]))) == 1
        assert len(offshoot_logprobs(model, [1, 5, 6, 7, 8], offshoots)) == 2
        model.register_forward_hook(spoiled(value, -2, token))
        with pytest.raises(NotNumbersError, match="at token 2 of 3") as found:
            list(forced_log_probs(model, [ForcedSequence([1], []), sequence]))
        assert found.value.index == 1
        with pytest.raises(NotNumbersError, match="not numbers"):
            offshoot_logprobs(model, [1, 5, 6, 7, 8], offshoots)


def test_a_masked_token_is_no_fault():
    with loaded_model("demo:student", device="cpu") as model:
        model.register_forward_hook(spoiled(-float("inf"), -2, 7))
        ((_, log_probs),) = forced_log_probs(model, [ForcedSequence([1, 5, 6], [7, 8, 9])])
        assert log_probs[2, 7] == -torch.inf


def test_the_embedded_engine_says_which_request_it_was():
    """Only behind one prompt do the logits break."""

    def hook(module: torch.nn.Module, inputs: object, keywords: dict, output: object) -> object:
        broken = (keywords["input_ids"] == 77).any(dim=1)
        output.logits = torch.where(broken[:, None, None], torch.nan, output.logits)
        return output

    with loaded_model("demo:student", device="cpu") as model:
        with open_engine("transformers", "demo:student") as engine:
            assert len(dict(engine.generate([Request((1, 77), 1, 0)]))) == 1
        from gradalign.engines.transformers.engine import TransformersEngine

        with TransformersEngine(model) as engine:
            model.register_forward_hook(hook, with_kwargs=True)
            requests = [Request((1, 70 + i), 3, i) for i in range(10)]
            with pytest.raises(NotNumbersError) as found:
                dict(engine.generate(requests))
            assert found.value.index == 7
            with pytest.raises(NotNumbersError) as scored:
                engine.logprobs([[1, 70], [1, 77, 3]], [1, 1])
            assert scored.value.index == 1


@pytest.mark.parametrize("bad", [None, float("nan"), float("inf")])
def test_a_servers_answer_without_a_number_is_not_an_answer_withheld(bad):
    choice = {"prompt_logprobs": [None, {"5": {"logprob": -0.5}, "6": {"logprob": bad}}]}
    with pytest.raises(NotNumbersError):
        token_logprobs(choice)
    with pytest.raises(NotNumbersError):
        read_scores(choice, [4, 5], 1)


def test_a_servers_minus_infinity_everywhere_is_no_distribution():
    row = {"5": {"logprob": -9999.0}, "6": {"logprob": -9999.0}}
    with pytest.raises(NotNumbersError):
        token_logprobs({"prompt_logprobs": [None, row]})
    own = token_logprobs({"prompt_logprobs": [None, {"5": {"logprob": -9999.0}}]})
    assert own[1] == {5: -float("inf")}


def break_norm(weights: dict[str, torch.Tensor]) -> None:
    weights["model.norm.weight"][3] = float("nan")


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_run_stops_with_the_models_name_and_keeps_what_was_done(tmp_path, capsys, role):
    broken = str(edited_weights(tmp_path / "broken", "strong", break_norm))
    models = {"student": "demo:student", "teacher": "demo:strong"} | {role: broken}
    flags = "--task demo:addition --limit 2 --num-rollouts 1 --nodes 2 --continuations 2"
    out = tmp_path / "run"
    given = ["--student", models["student"], "--teacher", models["teacher"], *flags.split()]
    with pytest.raises(SystemExit) as stop:
        main(["score", *given, "--method", "gkd", "--output-dir", str(out)])
    assert stop.value.code == 1
    said = capsys.readouterr().err
    assert f"the logits of {role} {broken} are not numbers" in said
    assert "question " in said
    assert "Traceback" not in said
    assert len(list(Path(out).glob("spines/*.parquet"))) == (role == "teacher")

"""The pairs that nothing was tuned on: tasks, models, trainings that are kept, LoRA."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gradalign.demo.pupils import Care
from tests.requires import require

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
TOYS = ("sorting", "automaton")


@pytest.fixture(autouse=True)
def _on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def toy_of(name):
    from validity.automaton import AUTOMATON
    from validity.sorting import SORTING

    return {"sorting": SORTING, "automaton": AUTOMATON}[name]


@pytest.mark.parametrize("name", TOYS)
def test_solutions_are_right_and_hints_are_followed(name):
    toy, rng = toy_of(name), random.Random(0)
    problems = toy.generate(200, seed=1, held_out=True)
    trained = toy.generate(200, seed=1, held_out=False)
    assert not set(problems) & set(trained)
    encode = toy.tokenizer()
    for problem in problems:
        right = problem.write(Care(), rng)
        assert toy.verify(right, problem.answer)
        assert len(encode(right)["input_ids"]) < toy.max_tokens
        assert encode.decode(encode(right)["input_ids"], skip_special_tokens=True) == right
        for false in (problem.wrong_answer, problem.other_answer):
            assert false != problem.answer
            told = problem.write_to_fit(false, Care(), rng)
            assert toy.verify(told, false)
            assert not toy.verify(told, problem.answer)
        assert toy.verify(problem.write_to_fit(problem.answer, Care(), rng), problem.answer)
        foreign = problem.write_foreign()
        assert not toy.verify(
            foreign, problem.answer
        )  # right, in a notation that counts for nothing
        assert foreign.rstrip(".").endswith(problem.answer)
        assert set(right + foreign) <= set(toy.alphabet)


@pytest.mark.parametrize("name", TOYS)
def test_pupils_are_as_good_as_their_names_say(name):
    toy, rng = toy_of(name), random.Random(0)
    problems = toy.generate(600, seed=2, held_out=False)

    def right(texts):
        return np.mean(
            [toy.verify(text, p.answer) for text, p in zip(texts, problems, strict=True)]
        )

    found = {
        role: right([problem.write(toy.roles[role].care, rng) for problem in problems])
        for role in ("student", "strong", "middle", "weak")
    }
    assert found["strong"] == 1.0
    assert found["middle"] > found["student"] + 0.1 > found["weak"] + 0.3
    assert 0.4 < found["student"] < 0.65
    assert right([problem.write_harmful() for problem in problems]) < 0.15
    assert right([problem.write_foreign() for problem in problems]) == 0.0


@pytest.mark.parametrize("name", TOYS)
def test_models_are_made_once_and_always_the_same(name, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    toy = toy_of(name)
    short = replace(toy, roles={role: replace(how, steps=3) for role, how in toy.roles.items()})
    said: list[str] = []
    for _ in range(2):
        short.make_models(tmp_path / "one", said.append)
    assert len(said) == len(toy.roles) == 6
    short.make_models(tmp_path / "other", said.append)
    for role in toy.roles:
        one, other = (
            AutoModelForCausalLM.from_pretrained(tmp_path / place / role)
            for place in ("one", "other")
        )
        assert all(
            torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)
        )
        assert one.config.vocab_size == len(toy.alphabet) + 3
        assert len(AutoTokenizer.from_pretrained(tmp_path / "one" / role)) == one.config.vocab_size


def test_a_pair_has_every_kind_of_arm(tmp_path):
    for name in TOYS:
        pair = toy_of(name).pair(tmp_path)
        arms = {(item.label, item.estimator) for item in pair.configurations}
        assert len(arms) == len(pair.configurations) == 40
        assert {item.context for item in pair.configurations} == {
            "none", "answer", "solution", "wrong-answer", "other-answer", "reference-free"
        }  # fmt: skip
        assert sum(estimator == "sampled" for _, estimator in arms) == 7
        (question,) = pair.questions(1, 3, True)
        assert set(question.contexts) == set(dict.fromkeys(question.contexts))
        assert question.contexts["reference-free"] == "[]" + question.prompt


def test_sums_are_solved_step_by_step_and_false_ones_lose_their_carries():
    require("reasoning_gym")
    from validity.sums_pair import RULE, draw, verify, write_solution

    kinds = [draw(60, 3, (kind,)) for kind in range(4)]
    assert len({question.id for part in kinds for question in part}) == 240
    wrong = 0
    for question in kinds[2]:
        assert eval(question.id) == int(question.answer)
        assert verify(question.solution, question.answer)
        assert not verify(question.solution + "1", question.answer)
        wrong += not verify(write_solution(question.id, carries=False), question.answer)
        assert question.contexts["rule"][0].content == RULE
        assert question.answer in question.contexts["answer"][-1].content
    assert wrong > 15
    assert write_solution("58 + 67 - 9", carries=False) == "58 + 67 = 15\n15 - 9 = 16\nAnswer: 16"


def test_lora_changes_nothing_at_first_and_points_where_the_tool_says():
    """Its first gradient is the one in gradalign's own space of the same rank."""
    from validity.lora import add_lora
    from validity.pairs import load_model

    from gradalign.models.weight_space import parse_space, weight_space

    ids = torch.arange(3, 40)[None]
    plain = load_model("demo:student")
    with weight_space(plain, parse_space("lora:rank=4")) as parameters:
        loss = torch.log_softmax(plain(input_ids=ids).logits, dim=-1)[..., 7].sum()
        expected = torch.autograd.grad(loss, parameters)
    logits = plain(input_ids=ids).logits
    model = load_model("demo:student")
    added = add_lora(model, 4, 0)
    assert torch.equal(model(input_ids=ids).logits, logits)
    torch.log_softmax(model(input_ids=ids).logits, dim=-1)[..., 7].sum().backward()
    downs, ups = added[::2], added[1::2]
    assert all(float(down.grad.abs().max()) == 0.0 for down in downs)
    for up, gradient in zip(ups, expected, strict=True):
        torch.testing.assert_close(up.grad, gradient)
    assert not any(p.requires_grad for p in model.parameters() if p not in set(added))


@pytest.mark.filterwarnings("ignore")
def test_trainings_are_kept_one_by_one_and_gone_on_with(tmp_path):
    require("trl")
    from validity.lengths import AdamwSettings
    from validity.pairs import ADDITION, Configuration
    from validity.trained import Series, gains_of, in_blocks, records, train_missing
    from validity.training import TrainSettings

    items = (Configuration("demo:strong", "opd"), Configuration("self+answer", "opd", "sampled"))
    pair = replace(ADDITION, configurations=items)
    sizes = {"prompts": 4, "group": 2, "eval_prompts": 96, "eval_responses": 2}
    ways = {
        "length": TrainSettings(0.02, checkpoints=(1, 3), **sizes),
        "lora": AdamwSettings(checkpoints=(1, 3), learning_rate=1e-2, lora_rank=4, **sizes),
    }
    series = [Series(pair, way, settings, tmp_path) for way, settings in ways.items()]
    said: list[str] = []
    train_missing(series, [0], said.append)
    assert len(said) == 4
    train_missing(series, [0], said.append)
    assert len(said) == 4
    (tmp_path / series[1].file(items[1], 0).name).unlink()
    kept = {file: file.read_bytes() for file in tmp_path.glob("*.json")}
    train_missing(series, [0], said.append)
    assert len(said) == 5
    assert all(file.read_bytes() == content for file, content in kept.items())
    found = list(records(tmp_path))
    assert [record["trainer"] for record in found].count("trl") == 2
    for record in found:
        assert {len(right) for right in record["after"].values()} == {96}
        before = sum(map(int, record["before"]))
        gain = (sum(map(int, record["after"]["3"])) - before) / 192
        assert gains_of(record)["3"] == pytest.approx(gain)
        assert sum(in_blocks(record["before"])) == before
        assert len(in_blocks(record["before"])) == 32


def gains_of_noise(seed=0, configurations=14, seeds=3, blocks=8, noise=0.05):
    from validity.comparison import Gains

    rng = np.random.default_rng(seed)
    truth_K = np.linspace(-0.3, 0.4, configurations)
    noise_KSQ = noise * rng.normal(size=(configurations, seeds, blocks))
    return truth_K, Gains(truth_K[:, None, None] + noise_KSQ)


def test_rank_correlations_are_scipys():
    from scipy.stats import kendalltau, spearmanr
    from validity.comparison import kendall_rows, spearman_rows

    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (4, 20)), rng.normal(size=(4, 20))
    for row in range(4):
        assert spearman_rows(x, y)[row] == pytest.approx(spearmanr(x[row], y[row]).statistic)
        assert kendall_rows(x, y)[row] == pytest.approx(kendalltau(x[row], y[row]).statistic)
    assert np.isnan(spearman_rows(np.ones((1, 5)), y[:1, :5])[0])


def test_a_good_predictor_is_told_from_a_poor_one():
    from validity.comparison import best_of, calibration, difference, ranking, regret, signs

    truth_K, gains = gains_of_noise()
    rng = np.random.default_rng(1)
    good_K, poor_K = truth_K + 0.02 * rng.normal(size=14), rng.normal(size=14)
    found, worse = ranking(good_K, gains), ranking(poor_K, gains)
    assert found["spearman"][0] > 0.95
    assert found["kendall"][0] > 0.8
    assert found["spearman"][1] > 0.8
    assert worse["spearman"][2] - worse["spearman"][1] > found["spearman"][2] - found["spearman"][1]
    assert difference(good_K, poor_K, gains)[1] > 0
    assert difference(good_K, good_K, gains) == pytest.approx([0.0, 0.0, 0.0])
    assert best_of({"poor": poor_K, "turned": -good_K}, gains) == "turned"
    assert regret(truth_K, gains)["regret"] == pytest.approx(0.0, abs=0.05)
    best, last = regret(-truth_K, gains), float(gains.mean_K[0])
    assert best["regret"] == pytest.approx(float(gains.mean_K.max()) - last)
    assert best["error"] < 0.05
    assert signs(truth_K, gains)["agree"] == 1.0
    assert signs(np.abs(truth_K), gains)["harm_found"] == 0.0
    fitted = calibration(2.0 * truth_K, gains)
    assert fitted["slope"] == pytest.approx(0.5, abs=0.05)
    holes_K = np.where(np.arange(14) % 4 == 0, np.nan, good_K)
    assert ranking(holes_K, gains)["count"] == 10
    assert ranking(np.full(14, np.nan), gains)["spearman"] is None


def test_intervals_of_rank_correlations_cover():
    """Drawn again and again, configurations and noise: 95 % intervals hold the truth of many."""
    from scipy.stats import norm
    from validity import comparison

    rng = np.random.default_rng(3)
    # Of two normal variables with correlation r, Spearman's is 6/pi arcsin(r/2).
    r = 0.8
    truth = 6 / np.pi * np.arcsin(r / 2)
    held = 0
    for _ in range(60):
        x_K = rng.normal(size=30)
        y_K = r * x_K + np.sqrt(1 - r**2) * rng.normal(size=30)
        gains = comparison.Gains(np.repeat(y_K[:, None], 1, axis=1)[:, :, None])
        _, low, high = comparison.ranking(x_K, gains)["spearman"]
        held += low <= truth <= high
    assert held / 60 > norm.cdf(1.2)  # 0.88


def test_the_error_of_a_gain_is_that_of_its_noise():
    from validity.comparison import Gains

    rng = np.random.default_rng(4)
    gains = Gains(0.1 + 0.3 * rng.normal(size=(400, 1, 32)))
    assert gains.error_K.mean() == pytest.approx(gains.mean_K.std(), rel=0.1)


def kept_results():
    import json

    return json.loads((FOLDER / "results" / "evidence.json").read_text())


def test_the_comparison_that_is_kept_is_that_of_the_kept_trainings():
    import json

    from common import plain
    from validity.evidence_output import comparison, from_validity, overview, said_in_verdicts

    kept = kept_results()
    old = json.loads((FOLDER / "results" / "predictive_validity.json").read_text())["pairs"]
    results = [*map(from_validity, old), *kept["pairs"]]
    assert set(kept["comparison"]) == {result["pair"] for result in results}
    for result in results:
        again = plain(comparison(result))
        for way, by_steps in kept["comparison"][result["pair"]].items():
            for steps, found in by_steps.items():
                assert_alike(again[way][steps], found)
    assert overview(results, kept["comparison"]) == kept["overview"]
    said = FOLDER.parent / "gradalign" / "report" / "verdict" / "evidence.json"
    assert_alike(said_in_verdicts(results, kept["comparison"]), json.loads(said.read_text()))


def assert_alike(one, other):
    """Numbers alike to 1e-6: other versions of numpy may add up in another order."""
    if isinstance(one, dict):
        assert set(one) == set(other)
        for key in one:
            assert_alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_alike(mine, theirs)
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6)
    else:
        assert one == other


def test_the_docs_have_the_table_of_the_results():
    text = (FOLDER.parent / "docs" / "evidence.md").read_text()
    assert kept_results()["overview"] in text


def test_tables_and_figures_are_there_for_every_pair():
    for pair in kept_results()["comparison"]:
        assert (FOLDER / "results" / f"evidence_{pair}.txt").is_file()
        assert (FOLDER / "results" / f"evidence_{pair}.png").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_trainings_and_a_scored_run_become_results_that_are_computed_again(tmp_path):
    require("trl")
    import json

    from evidence import keep, write_tables
    from validity.evidence_output import collect, gains_of, table
    from validity.pairs import ADDITION, Configuration
    from validity.predicted import Budget, score_all
    from validity.trained import Series, train_missing
    from validity.trained import gains_of as gains_of_record
    from validity.training import TrainSettings

    items = (
        *(Configuration(f"demo:{name}", "opd") for name in ("strong", "middle", "weak")),
        Configuration("demo:strong", "opd", "sampled"),
        Configuration("", "random"),
    )
    pair = replace(ADDITION, name="sorting", configurations=items)  # a name that results know
    settings = TrainSettings(
        0.02, checkpoints=(2, 4), prompts=8, group=4, eval_prompts=128, eval_responses=2
    )
    series = [Series(pair, "length", settings, tmp_path / "trained")]
    train_missing(series, [0, 1], lambda text: None)
    report = score_all(pair, Budget(8, 2, 2), tmp_path)
    result = collect(pair, series, [0, 1], report)
    rows, gains = gains_of(result, "length", "4")
    assert gains.gain_KSQ.shape == (5, 2, 32)
    kept = [
        gains_of_record(json.loads(series[0].file(items[0], seed).read_text()))["4"]
        for seed in (0, 1)
    ]
    assert gains.mean_K[0] == pytest.approx(np.mean(kept))
    strong, sampled = rows[0]["predictors"], rows[3]["predictors"]
    assert strong["gain_one"] == sampled["gain_one"] > rows[2]["predictors"]["gain_one"]
    assert strong["accuracy"] > rows[2]["predictors"]["accuracy"]
    assert strong["loss_decrease"] > 0 < strong["early_kl"] < strong["reverse_kl"]
    path = tmp_path / "out" / "evidence.json"
    keep(path, result)
    write_tables(path)
    first = path.read_text()
    compared = json.loads(first)["comparison"]["sorting"]["length"]
    assert set(compared) == {"2", "4"}
    assert compared["4"]["predictors"]["gain_one"]["calibration"]["slope"] != 0
    write_tables(path)
    assert path.read_text() == first
    text = (tmp_path / "out" / "evidence_sorting.txt").read_text()
    assert "steps of length 0.02" in text
    assert table(json.loads(first)["pairs"][0], {"length": compared}) in text
    assert (tmp_path / "out" / "evidence_sorting.png").is_file()

"""The shared-rule benchmark: its prompts are those learnt, its numbers those of the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gradalign.demo.addition import generate
from gradalign.report.report import read_report

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import shared_rule

    return shared_rule


@pytest.mark.parametrize(
    ("better", "worse", "undecided", "said"),
    [
        (6, 0, 0, "holds"),
        (2, 0, 4, "holds where a difference can be told"),
        (0, 6, 0, "does not hold (it is the other way round)"),
        (0, 1, 5, "does not hold (it is the other way round where a difference can be told)"),
        (1, 1, 4, "depends on the method and on what the rule is compared with"),
        (0, 0, 6, "is neither confirmed nor refuted (no difference can be told)"),
    ],
)
def test_the_claim_is_judged_whichever_way_the_numbers_fall(
    benchmark, better, worse, undecided, said
):
    from shared_rule_text import holds

    assert holds({"better": better, "worse": worse, "not told apart": undecided}) == said


def test_a_verdict_needs_a_corrected_p_value_and_follows_the_sign(benchmark):
    from shared_rule_text import verdict

    assert verdict({"difference": 0.1, "adjusted_p": 0.04}) == "better"
    assert verdict({"difference": -0.1, "adjusted_p": 0.04}) == "worse"
    assert verdict({"difference": -0.1, "adjusted_p": 0.06}) == "not told apart"
    assert verdict({"difference": 0.1, "adjusted_p": float("nan")}) == "not told apart"


def test_prompts_are_compared_with_what_the_sibling_learnt(benchmark, tmp_path):
    problems = generate(4, seed=3)
    questions, rule = tmp_path / "questions.jsonl", tmp_path / "rule.txt"
    benchmark.write_questions(problems, questions)
    rule.write_text("careful\n")
    benchmark.check_prompts(problems, questions, rule)
    rule.write_text("Careful\n")
    with pytest.raises(RuntimeError, match="careful"):
        benchmark.check_prompts(problems, questions, rule)


def test_training_rows_show_the_rule_and_follow_it(benchmark):
    import random

    from gradalign.demo.addition import verify
    from gradalign.demo.train import training_rows

    role = benchmark.sibling_role(benchmark.QUICK)
    rows = next(training_rows(role, random.Random(0)))
    ruled = [row for row in rows if row[0].startswith("[careful]")]
    assert len(ruled) == role.told_rule == 32
    for prompt, response in ruled:
        a, _, b = prompt.removeprefix("[careful]").rstrip("=").partition("+")
        assert verify(response, str(int(a) + int(b))) == 1.0


@pytest.mark.slow
def test_quick_numbers_are_those_of_the_run(benchmark, tmp_path, capsys):
    out = tmp_path / "result.json"
    benchmark.main(["--quick", "--work", str(tmp_path / "work"), "--out", str(out)])
    result = json.loads(out.read_text())
    printed = capsys.readouterr().out
    assert all(line in printed for line in result["conclusion"])
    assert result["config"]["questions"] == result["num_questions"] == 6
    assert {"gradalign", "torch", "transformers"} <= result["versions"].keys()

    (folder,) = (tmp_path / "work").glob("run-*")
    report = read_report(str(folder))
    labels = {
        "self+system:@rule.txt": f"self+system:@{(tmp_path / 'work').resolve() / 'rule.txt'}",
        "self+answer": "self+answer",
    }
    prompts = report.questions["prompt"].tolist()
    assert sorted(prompts) == sorted(f"<|begin|>{p.prompt}" for p in generate(6, seed=0))

    weights = report.nodes.set_index("node_id")[["inclusion_prob", "ideal_norm2"]]
    pooled, mean = {}, {}
    for name, label in labels.items():
        columns = ["teacher", "method", "node_id", "dot", "method_norm2", "cosine"]
        rows = report.table("alignment", columns)
        rows = rows[(rows["teacher"] == label) & (rows["method"] == "opd")]
        rows = rows.assign(node_id=rows["node_id"].astype(str)).join(weights, on="node_id")
        rows = rows.assign(weight=1 / rows["inclusion_prob"]).set_index("node_id")
        usable = rows[rows["dot"].notna()]
        dot, ideal2, method2 = (
            (usable["weight"] * usable[column]).sum()
            for column in ("dot", "ideal_norm2", "method_norm2")
        )
        pooled[name] = dot / np.sqrt(ideal2 * method2)
        mean[name] = rows
        (found,) = (
            row["pooled"]["estimate"]
            for row in result["alignment"]
            if (row["teacher"], row["method"], row["split"]) == (name, "opd", "all")
        )
        assert found == pytest.approx(pooled[name], rel=1e-4)
    first, second = mean.values()
    both = first["cosine"].notna() & second["cosine"].reindex(first.index).notna()
    means = [np.average(f["cosine"][both], weights=f["weight"][both]) for f in (first, second)]
    expected = {
        "pooled": pooled["self+system:@rule.txt"] - pooled["self+answer"],
        "mean_cosine": means[0] - means[1],
    }
    for row in result["comparisons"]:
        if (row["second"], row["method"], row["split"]) == ("self+answer", "opd", "all"):
            assert row["difference"] == pytest.approx(expected[row["measure"]], abs=1e-4)
            assert row["adjusted_p"] >= row["p_value"]

    rates = {name: parts["from_scratch"]["estimate"] for name, parts in result["success"].items()}
    assert rates["student"] == pytest.approx(report.spines["reward"].mean(), rel=1e-4)
    assert rates["self+answer"] > rates["student"] > rates["self+wrong-answer"]

"""Public configs, the ten that were chosen later, and every trainer of the table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gradalign.lint import LEVELS, RULES
from gradalign.methods.aliases import trainers
from tests.lint.linted import example, linted, records

DOCS = Path(__file__).parents[2] / "docs"
PUBLIC, HELD_OUT = records("public_configs.yaml"), records("held_out.yaml")


@pytest.mark.parametrize("record", [*PUBLIC, *HELD_OUT], ids=lambda record: record["name"])
def test_findings(tmp_path, record):
    told = {"version": record["version"]} if "version" in record else {}
    found = linted(tmp_path, record["text"], record["name"], **told)
    if "idle" in record:
        assert found.subject is None
        assert found.reason == record["idle"]
        assert not found.hits
        return
    assert found.subject.trainer.name == record["trainer"]
    assert {hit.rule.name: hit.level for hit in found.findings} == record["findings"]
    asked = [hit.rule.name for hit in found.hits if hit.level == "question"]
    assert asked == record.get("questions", [])


def test_every_trainer_is_among_them():
    assert {record["trainer"] for record in PUBLIC} == set(trainers())
    assert len(PUBLIC) >= 20
    assert len(HELD_OUT) == 10
    for record in (*PUBLIC, *HELD_OUT):
        assert record["repository"].count("/") == 1
        assert record["path"]
        assert record["at"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_is_a_file_with_a_test_and_says_where_it_was_met(rule, tmp_path):
    name = rule.name.replace("-", "_")
    assert (Path(__file__).parent / "rules" / f"test_{name}.py").exists()
    assert rule.check.__module__ == f"gradalign.lint.rules.{name}"
    assert rule.source
    finding = example(tmp_path, rule.name).finding
    assert finding.level in rule.levels
    assert set(rule.levels) <= set(LEVELS)
    assert finding.fix
    assert finding.evidence or finding.level == "question" or rule.name == "unknown-key"
    for sentence in f"{finding.text} {finding.evidence}".replace("; ", ". ").split(". "):
        assert len(sentence.split()) <= 30, sentence


def test_the_page_is_that_of_the_rules():
    spec = importlib.util.spec_from_file_location("docs_lint", DOCS / "lint.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (DOCS / "lint.md").read_text() == module.text(), "run python docs/lint.py"
    drawn = {rule.name for rule in RULES if module.found(rule).finding.drawn is not None}
    assert {path.stem for path in module.PICTURES.glob("*.svg")} == drawn

"""Findings as other programs take them: SARIF 2.1.0, and annotations of GitHub's workflows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from gradalign.lint.findings import Level, Rule
from gradalign.lint.linting import Hit, Lint
from gradalign.lint.rules import RULES

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
SARIF: dict[Level, str] = {
    "error": "error", "warning": "warning", "note": "note", "question": "none",
}  # fmt: skip
GITHUB: dict[Level, str] = {
    "error": "error", "warning": "warning", "note": "notice", "question": "notice",
}  # fmt: skip


def sarif(lints: Iterable[Lint], version: str) -> dict[str, Any]:
    """Return a SARIF log.

    Args:
        lints: of every file.
        version: of gradalign.
    """
    driver = {"name": "gradalign lint", "version": version, "rules": [_rule(one) for one in RULES]}
    results = [_result(lint, hit) for lint in lints for hit in lint.hits]
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def github(lints: Iterable[Lint]) -> Iterator[str]:
    """Yield a workflow command per finding."""
    for lint in lints:
        for hit in lint.hits:
            place = f"file={_property(lint.source.path)},line={hit.line}"
            title = _property(f"gradalign {hit.rule.name}")
            yield f"::{GITHUB[hit.level]} {place},title={title}::{_data(said(hit))}"


def said(hit: Hit) -> str:
    """Return a finding in one text."""
    found = hit.finding
    return " ".join(filter(None, (found.text, found.evidence, found.fix)))


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": f"{rule.title}. Met in: {rule.source}."},
        "defaultConfiguration": {"level": SARIF[rule.levels[0]]},
    }


def _result(lint: Lint, hit: Hit) -> dict[str, Any]:
    location = {
        "physicalLocation": {
            "artifactLocation": {"uri": lint.source.path},
            "region": {"startLine": hit.line},
        }
    }
    return {
        "ruleId": hit.rule.name,
        "kind": "review" if hit.level == "question" else "fail",
        "level": SARIF[hit.level],
        "message": {"text": said(hit)},
        "locations": [location],
    }


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")

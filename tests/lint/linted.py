"""Files through lint: written to a folder, with the findings by rule."""

from __future__ import annotations

from pathlib import Path

import yaml

from gradalign.lint import RULES, Hit, Lint, lint

CONFIGS = Path(__file__).parent
VERL = "distillation.distillation_loss."


def linted(folder: Path, text: str, name: str = "run.sh", **told: str) -> Lint:
    """Lint a text as a file of a name."""
    (path := folder / name).write_text(text)
    return lint(str(path), **told)


def verl(folder: Path, *overrides: str, **settings: object) -> Lint:
    """Lint a script of verl's distillation with settings of its loss, and other overrides."""
    settings = {"use_task_rewards": False, **settings}
    words = ["distillation.enabled=true", *overrides]
    words += [f"{VERL}{key}={str(value).lower()}" for key, value in settings.items()]
    return linted(folder, "python -m verl.trainer.main_ppo \\\n " + " \\\n ".join(words) + "\n")


def by_rule(result: Lint) -> dict[str, Hit]:
    """Return what was found, questions too, by rule."""
    return {hit.rule.name: hit for hit in result.hits}


def example(folder: Path, name: str) -> Hit:
    """Return what a rule finds in its own example."""
    (rule,) = (rule for rule in RULES if rule.name == name)
    found = linted(folder, rule.example.text, rule.example.name, trainer=rule.example.trainer)
    return by_rule(found)[name]


def records(name: str) -> list[dict]:
    """Return the configs of a file here."""
    return yaml.safe_load((CONFIGS / name).read_text())

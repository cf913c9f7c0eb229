"""Tasks, verifiers and contexts of an installed package, found by their entry points."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from gradalign.contexts import SimpleContext
from gradalign.tasks import Question
from gradalign.verifiers import FunctionVerifier


class Parrots:
    description = "repeat the word"
    verifier = "parrot"
    fingerprint = "1"
    name = "parrots"

    def __init__(self, word="hello"):
        self.word = word

    def questions(self, limit=None, ids=(), seed=0):
        return [Question("p", f"Say {self.word}.", answer=self.word)]


def parrot(argument):
    return FunctionVerifier(lambda text, q: float(q.answer in text), needs_answer=True)


def loud(argument, questions):
    return SimpleContext("loud", lambda q, attempt, others: q.prompt.upper() + argument)
"""

ENTRY_POINTS = """
[gradalign.tasks]
parrots = parrot_plugin:Parrots
broken = parrot_plugin:Missing

[gradalign.verifiers]
parrot = parrot_plugin:parrot

[gradalign.contexts]
loud = parrot_plugin:loud
"""

SCRIPT = """
import json, warnings
from gradalign.contexts import describe as contexts, get
from gradalign.tasks import describe, load_task
from gradalign.verifiers import VerifierPool
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    task = load_task("parrots:word=hi")
(question,) = task.questions()
with VerifierPool(task.verifier) as pool:
    rewards = [verdict.reward for verdict in pool.score([("hi!", question), ("ho", question)])]
print(json.dumps({
    "listed": "parrots" in [record["name"] for record in describe()],
    "loud": "loud" in [record["name"] for record in contexts()],
    "prompt": get("loud:!").prompt(question, None, ()),
    "rewards": rewards,
    "warnings": [str(item.message) for item in caught],
}))
"""


def test_entry_points(tmp_path: Path) -> None:
    (tmp_path / "parrot_plugin.py").write_text(PLUGIN)
    info = tmp_path / "parrot_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: parrot-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    (warning,) = found.pop("warnings")
    assert "task plugin 'broken' (parrot_plugin:Missing) is broken and was left out" in warning
    assert found == {
        "listed": True,
        "loud": True,
        "prompt": "SAY HI.!",
        "rewards": [1.0, 0.0],
    }

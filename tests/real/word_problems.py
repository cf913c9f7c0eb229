"""Word problems that SmolLM2-135M solves now and then, each up to where it has to calculate."""

from __future__ import annotations

import json
from pathlib import Path

VERIFIER = r"regex:^\s*(\d+)"
"""Reads the number that an answer goes on with."""

_SHOWN = (
    ("A farmer has 8 hens and buys 3 more. How many hens does he have?", "8 + 3 = 11"),
    ("Mia had 9 sweets and ate 4. How many are left?", "9 - 4 = 5"),
)

_READ = "Lisa read {} books in May and {} in June. How many did she read?"
_LOST = "Ann had {} marbles and lost {}. How many does she have?"

_SUMS = ((12, 5), (15, 6), (11, 3), (2, 7))
_DIFFERENCES = ((8, 7), (9, 6), (13, 9), (6, 2))


def write_questions(path: Path) -> None:
    """Write eight problems as a file of questions; each answer is begun up to its result."""
    rows = [
        *(_row(_READ.format(a, b), f"{a} + {b} =", a + b) for a, b in _SUMS),
        *(_row(_LOST.format(a, b), f"{a} - {b} =", a - b) for a, b in _DIFFERENCES),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(problem: str, begun: str, answer: int) -> dict[str, object]:
    turns = [text for pair in (*_SHOWN, (problem, begun)) for text in pair]
    messages = [
        {"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(turns)
    ]
    return {"id": begun, "messages": messages, "answer": str(answer)}

"""The verdict of a run: which teacher and method to distill with, how surely, and what is open.

`bases` says by which numbers arms are ranked, `families` asks three questions of them, each of a
family of its own, `sentences` writes down what comes out, and `recommendation` is all of it.
"""

from __future__ import annotations

from gradalign.report.verdict.recommend import recommend
from gradalign.report.verdict.recommendation import (
    Judgement,
    Part,
    Ranked,
    Recommendation,
    Settle,
    TeacherPlace,
    role_of,
    to_json,
)

__all__ = [
    "Judgement",
    "Part",
    "Ranked",
    "Recommendation",
    "Settle",
    "TeacherPlace",
    "recommend",
    "role_of",
    "to_json",
]

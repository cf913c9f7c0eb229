"""The gate after sampling: whether the sampled responses promise anything.

Targeted rollouts cost many times what the responses cost. What makes them worthless mostly shows
in the responses already: none is right, or all are; they are cut off; the verifier does not read
what the student writes. `judge` decides that from counts alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from gradalign.config import ScoreConfig

LEVEL = 0.95
"""Confidence of the bound of the success rate."""

ALIKE = 8
"""From so many questions on, it is no chance that all prompts or all answers are equal."""

MOSTLY = 0.5
"""Share from which on most of something is so."""

Kind = Literal[
    "verifier fails",
    "prompts alike",
    "empty",
    "no end",
    "cut off",
    "none right",
    "all right",
    "read otherwise",
]


@dataclass(frozen=True)
class Reading:
    """A laxer way to read an answer, and how many responses that count as wrong it accepts.

    Attributes:
        name: in words, such as "by its last number".
        accepted: responses that are wrong by the verifier and right by this reading.
        mend: what to do if that is how they are meant.
    """

    name: str
    accepted: int
    mend: str


@dataclass(frozen=True)
class Longer:
    """What became of some cut-off responses that were given more tokens.

    Attributes:
        tried: responses.
        ended: of them, those that then ended.
        limit: the longest response, in tokens, that was allowed.
        longest: the longest one that ended, in tokens.
    """

    tried: int
    ended: int
    limit: int
    longest: int


@dataclass(frozen=True)
class Counts:
    """What the sampled responses come to.

    Attributes:
        responses: all of them.
        right: reward 1.
        cut_off: ran into `max_tokens`.
        failed: the verifier failed on them.
        empty: ended, and hold nothing but blanks.
        questions: with a response.
        prompts: different prompts among them.
        answers: different answers among them; None where the rows have none.
        an_answer: one of the answers, to be shown.
        readings: laxer readings, the best first.
        verifier: its spec.
        max_tokens: longest response.
        ends: tokens that end a response, as text, in words.
        other_end: a special token that stands inside cut-off responses, as (id, text, responses).
        longer: None where it was not tried.
        others_accepted: right responses that are also right as answers to other questions, of
            `others_tried`.
    """

    responses: int
    right: int
    cut_off: int = 0
    failed: int = 0
    empty: int = 0
    questions: int = 1
    prompts: int = 1
    answers: int | None = None
    an_answer: str = ""
    readings: tuple[Reading, ...] = ()
    verifier: str = ""
    max_tokens: int = 0
    ends: str = ""
    other_end: tuple[int, str, int] | None = None
    longer: Longer | None = None
    others_accepted: int = 0
    others_tried: int = 0

    @property
    def known(self) -> int:
        """Responses that have a reward."""
        return self.responses - self.failed


@dataclass(frozen=True)
class Thresholds:
    """From where on the gate stops a run; see the settings of these names.

    Attributes:
        responses: fewer are not judged.
        cut_off, empty, failed, misread: shares of responses that may be so.
    """

    responses: int = 30
    cut_off: float = 0.2
    empty: float = 0.2
    failed: float = 0.05
    misread: float = 0.1

    @classmethod
    def of(cls, config: ScoreConfig) -> Thresholds:
        """Take them from a run's settings."""
        return cls(
            responses=config.gate_responses,
            cut_off=config.gate_cut_off,
            empty=config.gate_empty,
            failed=config.max_verifier_failures,
            misread=config.gate_misread,
        )


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with the responses.

    Attributes:
        kind: which.
        what: it, with counts.
        cause: the likeliest, in a sentence.
        mend: what to do, with the flag.
    """

    kind: Kind
    what: str
    cause: str
    mend: str

    def as_dict(self) -> dict[str, str]:
        """Return plain JSON values."""
        return {"kind": self.kind, "what": self.what, "cause": self.cause, "mend": self.mend}


@dataclass(frozen=True)
class Judgement:
    """What is wrong with the responses of a run.

    Attributes:
        counts: what was judged.
        findings: the likeliest root of all first.
        judged: whether there are enough responses; if not, the findings are hints.
    """

    counts: Counts
    findings: tuple[Finding, ...] = field(default=())
    judged: bool = True

    @property
    def stops(self) -> bool:
        """Whether the run should stop."""
        return self.judged and bool(self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Return what run.json keeps."""
        counts = self.counts
        return {
            "responses": counts.responses,
            "right": counts.right,
            "cut_off": counts.cut_off,
            "empty": counts.empty,
            "failed": counts.failed,
            "judged": self.judged,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def judge(counts: Counts, thresholds: Thresholds) -> Judgement:
    """Say what is wrong with sampled responses; findings that explain others come first."""
    if not counts.responses:
        return Judgement(counts)
    found = [
        *_fails(counts, thresholds),
        *_prompts(counts),
        *_empty(counts, thresholds),
        *_cut(counts, thresholds),
        *_rates(counts),
        *_misread(counts, thresholds),
    ]
    return Judgement(counts, tuple(found), counts.responses >= thresholds.responses)


def bound(count: int, of: int) -> float:
    """Return the upper bound, at 95 %, of a rate of which `count` = 0 of `of` were seen.

    The exact (Clopper-Pearson) one-sided bound of a binomial rate, 1 - 0.05^(1/n).

    Raises:
        ValueError: something was seen, or nothing looked at.
    """
    if count != 0 or of < 1:
        raise ValueError(f"a bound of 0 of at least 1 is asked for, got {count} of {of}")
    return 1.0 - float((1.0 - LEVEL) ** (1.0 / of))


def _fails(counts: Counts, thresholds: Thresholds) -> list[Finding]:
    if counts.failed <= thresholds.failed * counts.responses:
        return []
    return [
        Finding(
            "verifier fails",
            f"the verifier {counts.verifier} fails on {_of(counts.failed, counts)} responses",
            "it raises, runs out of time, or returns no number in [0, 1]",
            "Mend the verifier; --verify-timeout-seconds gives it more time, and "
            "--max-verifier-failures says what share may fail.",
        )
    ]


def _prompts(counts: Counts) -> list[Finding]:
    if counts.prompts > 1 or counts.questions < ALIKE:
        return []
    return [
        Finding(
            "prompts alike",
            f"all {counts.questions:,} questions have the same prompt",
            "the prompts, or the chat template that makes them, leave out what is asked",
            "Look at one with --print-prompts 1; mend --task, or give another --chat-template.",
        )
    ]


def _empty(counts: Counts, thresholds: Thresholds) -> list[Finding]:
    if counts.empty <= thresholds.empty * counts.responses:
        return []
    return [
        Finding(
            "empty",
            f"{_of(counts.empty, counts)} responses are empty",
            "the student takes its prompt for a finished one and ends at once, as with a wrong "
            "chat template or a --response-prefix that ends a response",
            "Look at the prompt with --print-prompts 1, and give another --chat-template.",
        )
    ]


def _cut(counts: Counts, thresholds: Thresholds) -> list[Finding]:
    if counts.cut_off <= thresholds.cut_off * counts.responses:
        return []
    none = counts.cut_off == counts.responses
    what = (
        f"{_of(counts.cut_off, counts)} responses are cut off at --max-tokens {counts.max_tokens}"
    )
    if none:
        what += f", and none has drawn an end token{counts.ends and f' ({counts.ends})'}"
    other, longer = counts.other_end, counts.longer
    if other is not None and other[2] > MOSTLY * counts.cut_off:
        return [
            Finding(
                "no end",
                what,
                f"the student ends responses with {other[1]!r}, which is not taken for an end: "
                f"{other[2]:,} of those cut off hold it",
                f"Add --stop-token-id {other[0]} --no-resume.",
            )
        ]
    if longer is not None and longer.tried and not longer.ended:
        return [
            Finding(
                "no end",
                what,
                f"the student does not end its responses: none of {longer.tried} that were "
                f"continued to {longer.limit:,} tokens has ended",
                "Look at one: if it goes on after its answer, give the model's own "
                "--chat-template, or name what ends a response with --stop-token-id.",
            )
        ]
    if longer is not None and longer.tried:
        cause = (
            f"--max-tokens is too small: of {longer.tried} that were continued to "
            f"{longer.limit:,} tokens, {longer.ended} ended, the longest after {longer.longest:,}"
        )
        room = _round_up(longer.longest if longer.ended == longer.tried else longer.limit)
    else:
        cause = "--max-tokens is too small"
        if none:
            cause += ", or the student never ends a response (then --stop-token-id names its end)"
        room = _round_up(3 * counts.max_tokens)
    return [Finding("cut off", what, cause, f"Give --max-tokens {room} --no-resume.")]


def _rates(counts: Counts) -> list[Finding]:
    if not counts.known or 0 < counts.right < counts.known:
        return []
    edge = f"{bound(0, counts.known):.2g}"
    if counts.right:
        what = (
            f"all {counts.known:,} responses are right (a success rate above "
            f"{1.0 - bound(0, counts.known):.3g} at {LEVEL:.0%} confidence)"
        )
        if counts.others_tried and counts.others_accepted > MOSTLY * counts.others_tried:
            cause = (
                f"the verifier {counts.verifier} accepts anything: "
                f"{counts.others_accepted} of {counts.others_tried} responses are also right as "
                "answers to another question"
            )
            return [Finding("all right", what, cause, "Give a --verifier that compares.")]
        return [
            Finding(
                "all right",
                what,
                "the questions are too easy for this student, so that no token decides anything",
                "Give a harder --task, or a weaker --student.",
            )
        ]
    what = (
        f"0 of {counts.known:,} responses are right (a success rate below {edge} at "
        f"{LEVEL:.0%} confidence)"
    )
    return [Finding("none right", what, *_why_none(counts))]


def _why_none(counts: Counts) -> tuple[str, str]:
    if counts.answers == 1 and counts.questions >= ALIKE:
        return (
            f"the rows hold no real answers: all of them say {counts.an_answer!r}",
            "Give every row of --task its own `answer`.",
        )
    if counts.readings and counts.readings[0].accepted:
        best = counts.readings[0]
        return (
            f"the verifier {counts.verifier} does not read what the student writes: "
            f"{best.accepted:,} are right {best.name}",
            best.mend,
        )
    if counts.cut_off > MOSTLY * counts.responses:
        return ("most are cut off, and what is cut off counts as wrong", "See --max-tokens.")
    if counts.answers == 0:
        return (
            "the rows hold no answers that a response could be compared with",
            "Give every row of --task an `answer`.",
        )
    return (
        "the questions are too hard for this student, or the answers of the rows are wrong",
        "Compare a few responses with their answers; then give an easier --task, a stronger "
        "--student, or more questions with --limit.",
    )


def _misread(counts: Counts, thresholds: Thresholds) -> list[Finding]:
    if not counts.readings or not counts.right:
        return []
    best = counts.readings[0]
    if best.accepted <= thresholds.misread * counts.responses:
        return []
    return [
        Finding(
            "read otherwise",
            f"{_of(best.accepted, counts)} responses are wrong by the verifier "
            f"{counts.verifier} and right {best.name}",
            "the verifier misses how the student writes some of its answers",
            best.mend,
        )
    ]


def _of(count: int, counts: Counts) -> str:
    return f"{count:,} of {counts.responses:,}"


def _round_up(tokens: int) -> int:
    """Return the next power of two that leaves a quarter to spare."""
    return 1 << max(int(1.25 * tokens) - 1, 1).bit_length()

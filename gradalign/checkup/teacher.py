"""Whether a teacher says what it is believed to say, before anything is scored or trained by it.

Faults that public trainers had show in a few forward passes: another vocabulary, another chat
template, log-probabilities that lie one position off, another checkpoint behind an address, two
servers that differ, weights in another precision, too few top tokens. `check_teacher` reads some
texts with the student and with the teacher, and once more through each of the teacher's servers,
and compares. Nothing is sampled.

Axes: _L tokens of all texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradalign.errors import GradalignError, TokenizerMismatchError, UsageError
from gradalign.models import load_config, loaded_model, resolve_model, vocab_size
from gradalign.models.checkpoints.generation import end_token_ids
from gradalign.models.checkpoints.tokenizers import check_agreement, load_tokenizer
from gradalign.models.distributions import ForcedSequence, forced_log_probs, position_view
from gradalign.models.event_space import EventSpace, event_space, only
from gradalign.models.prompts.render import effective_template, stop_token_ids

Floats = npt.NDArray[np.float64]
Level = Literal["ok", "note", "fault"]

TEXTS = (
    "Question: A baker sells 12 loaves at 3 dollars each and 7 cakes at 15 dollars each. How much "
    "does she earn?\nAnswer: The loaves bring 12 * 3 = 36 dollars and the cakes 7 * 15 = 105 "
    "dollars. Together that is 36 + 105 = 141 dollars.",
    "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
    "    return a\n\nprint([fibonacci(n) for n in range(10)])\n",
    "The Rhine rises in the Swiss Alps, flows through Lake Constance, and reaches the North Sea in "
    "the Netherlands. Der Rhein ist etwa 1230 Kilometer lang. Le Rhin traverse plusieurs pays.",
    "123+456=3+6=9,2+5=7,1+4=5,579",
)
"""What is read where no texts are given."""

SHIFTS = (-2, -1, 0, 1, 2)
SAME_MAX, SAME_MEAN = 0.05, 0.005
"""Nats by which two readings of the same weights in the same precision may differ: at most, and on
average. The sums of a GPU's batches differ by about a tenth of that."""

ANOTHER = 0.25
"""Part of the signal from which on a difference is that of another checkpoint, not of rounding."""

CLEARER = 0.1
"""How much higher a shifted correlation is than the straight one where positions are off."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        level: ok; note (something to know); fault (numbers would be wrong).
        text: what was found, a sentence or two.
        numbers: what was measured.
    """

    name: str
    level: Level
    text: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherCheck:
    """What was found about a teacher.

    Attributes:
        student, teacher: the models.
        findings: in the order in which they were looked at.
    """

    student: str
    teacher: str
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether there is no fault."""
        return all(finding.level != "fault" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "student": self.student,
            "teacher": self.teacher,
            "sound": self.sound,
            "findings": [
                {
                    "name": item.name,
                    "level": item.level,
                    "text": item.text,
                    "numbers": dict(item.numbers),
                }
                for item in self.findings
            ],
        }

    def __str__(self) -> str:
        return "\n".join(f"{item.level:5} {item.name}: {item.text}" for item in self.findings)


def check_teacher(
    *,
    student: str,
    teacher: str,
    base_urls: Sequence[str] = (),
    texts: Sequence[str] = TEXTS,
    top_k: int = 64,
    local: bool = True,
    revision: str | None = None,
    teacher_revision: str | None = None,
    trust_remote_code: bool = False,
    device: str = "auto",
) -> TeacherCheck:
    """Look at a teacher through everything that a score would read it by.

    Args:
        student: model id, folder, or demo:NAME.
        teacher: the teacher's checkpoint, likewise.
        base_urls: vLLM servers that have the teacher; each is read by itself.
        texts: what is read; some dozens of tokens each, of the kind that will be distilled.
        top_k: most probable tokens of a position that methods will ask a server for.
        local: with servers, whether the checkpoint is read here too, in float32, to be held
            against what servers say. Without, another checkpoint cannot be told from this one.
        revision: of the student's hub id.
        teacher_revision: of the teacher's.
        trust_remote_code: run the models' own code.
        device: of the forward passes; a GPU if there is one.

    Raises:
        UsageError: no text, or none with two tokens.
        ModelError: a model that cannot be loaded.
    """
    found: list[Finding] = []
    models = {"student": (student, revision), "teacher": (teacher, teacher_revision)}
    tokenizers = {
        role: load_tokenizer(resolve_model(name), commit, trust_remote_code)
        for role, (name, commit) in models.items()
    }
    configs = {
        role: load_config(name, revision=commit, trust_remote_code=trust_remote_code)
        for role, (name, commit) in models.items()
    }
    found += _vocabulary(tokenizers, texts, teacher)
    found += _templates(tokenizers)
    if any(item.level == "fault" for item in found):  # no id can be compared
        return TeacherCheck(student, teacher, tuple(found))
    found += _ends(models, tokenizers, configs)
    sequences = _sequences(tokenizers["student"], texts)
    tokens = event_space(tokenizers["student"], vocab_size(student, configs["student"]))
    tokens = tokens.common(
        event_space(tokenizers["teacher"], vocab_size(teacher, configs["teacher"]))
    )
    options = {"device": device, "dtype": "float32", "trust_remote_code": trust_remote_code}
    own = _read(student, sequences, tokens, {**options, "revision": revision})
    there = None
    if local or not base_urls:
        there = _read(teacher, sequences, tokens, {**options, "revision": teacher_revision})
        found += _signal(there, own, same=resolve_model(student) == resolve_model(teacher))
    if base_urls:
        served_options = {"revision": teacher_revision, "trust_remote_code": trust_remote_code}
        rounded = (
            _read(
                teacher, sequences, tokens,
                {**options, "revision": teacher_revision, "dtype": "bfloat16"},
            )
            if there is not None
            else None
        )  # fmt: skip
        found += _servers(
            teacher, base_urls, served_options, sequences, tokens, top_k, own, there, rounded
        )
    return TeacherCheck(student, teacher, tuple(found))


def _vocabulary(
    tokenizers: dict[str, Any], texts: Sequence[str], teacher: str
) -> Iterator[Finding]:
    """Compare what ids stand for, and how both cut the texts."""
    first, second = tokenizers["student"], tokenizers["teacher"]
    try:
        check_agreement(first, second, teacher)
    except TokenizerMismatchError as error:
        yield Finding("vocabulary", "fault", f"{error.message} {error.hint}".strip())
        return
    sizes = [len(item.get_vocab()) for item in (first, second)]
    text = f"Every id that both have stands for the same token ({min(sizes):,} ids)."
    if sizes[0] != sizes[1]:
        text += f" The student has {sizes[0]:,}, the teacher {sizes[1]:,}."
    yield Finding("vocabulary", "ok" if sizes[0] == sizes[1] else "note", text)
    cut = [
        index
        for index, text in enumerate(texts)
        if list(first(text, add_special_tokens=False)["input_ids"])
        != list(second(text, add_special_tokens=False)["input_ids"])
    ]
    if cut:
        yield Finding(
            "tokenisation",
            "note",
            f"The teacher would cut {len(cut)} of {len(texts)} texts otherwise than the student. "
            "It reads the student's own token ids, which it seldom saw cut so.",
        )


def _templates(tokenizers: dict[str, Any]) -> Iterator[Finding]:
    """Compare the chat templates by their text."""
    texts = {role: effective_template(item, None) or "" for role, item in tokenizers.items()}
    hashes = {
        role: hashlib.sha256(text.encode()).hexdigest()[:12] if text else "none"
        for role, text in texts.items()
    }
    if len(set(hashes.values())) == 1:
        yield Finding("chat template", "ok", f"Both have the same one ({hashes['student']}).")
    else:
        yield Finding(
            "chat template",
            "note",
            f"The student's is {hashes['student']}, the teacher's {hashes['teacher']}: each reads "
            "prompts in its own.",
        )


def _ends(
    models: dict[str, tuple[str, str | None]], tokenizers: dict[str, Any], configs: dict[str, Any]
) -> Iterator[Finding]:
    """Compare the tokens that end a response."""
    ends = {
        role: set(
            stop_token_ids(
                tokenizers[role],
                list(end_token_ids(name, resolve_model(name), configs[role], commit=commit)),
            )
        )
        for role, (name, commit) in models.items()
    }
    words = {
        role: ", ".join(map(repr, tokenizers[role].convert_ids_to_tokens(sorted(own)))) or "none"
        for role, own in ends.items()
    }
    if ends["student"] & ends["teacher"]:
        yield Finding("end tokens", "ok", f"Both end with {words['student']}." if ends["student"]
                      == ends["teacher"] else f"The student ends with {words['student']}, the "
                      f"teacher with {words['teacher']}.")  # fmt: skip
    else:
        yield Finding(
            "end tokens",
            "note",
            f"The student ends with {words['student']}, the teacher with {words['teacher']}: it "
            "gives the student's end almost nothing, and a divergence there teaches never to end.",
        )
    pad = tokenizers["student"].pad_token_id
    if pad is not None and pad in ends["student"]:
        yield Finding(
            "padding",
            "note",
            f"The student's padding token {words['student']} also ends responses: a trainer that "
            "masks padding by its id takes the end out of the loss.",
        )


@dataclass(frozen=True)
class _Reading:
    """What a model says along the texts.

    Attributes:
        logprob_L: of each token that is there.
        top_L: the most probable token.
        where_L: number of the text.
    """

    logprob_L: Floats
    top_L: npt.NDArray[np.int64]
    where_L: npt.NDArray[np.int64]


def _sequences(tokenizer: Any, texts: Sequence[str]) -> list[ForcedSequence]:
    """Cut each text into a first token, which is the prompt, and the rest."""
    sequences = []
    for text in texts:
        ids = list(tokenizer(text)["input_ids"])
        if len(ids) > 1:
            sequences.append(ForcedSequence(ids[:1], ids[1:]))
    if not sequences:
        raise UsageError("no text has two tokens.", "Give texts of some dozens of tokens.")
    return sequences


def _read(
    model: str, sequences: Sequence[ForcedSequence], tokens: EventSpace, options: dict[str, Any]
) -> _Reading:
    """Read the texts here."""
    views: dict[int, Any] = {}
    with loaded_model(model, **options) as loaded, only(loaded, tokens):
        for i, log_probs_LV in forced_log_probs(loaded, sequences):
            views[i] = position_view(log_probs_LV, np.asarray(sequences[i].response_ids), 1)
    return _joined(views)


def _joined(views: dict[int, Any]) -> _Reading:
    order = sorted(views)
    return _Reading(
        np.concatenate([np.asarray(views[i].logprob_L, dtype=np.float64) for i in order]),
        np.concatenate([views[i].top_ids_LW[:, 0].astype(np.int64) for i in order]),
        np.concatenate([np.full(len(views[i].logprob_L), i) for i in order]),
    )


def _signal(there: _Reading, own: _Reading, *, same: bool) -> Iterator[Finding]:
    """Say how far the teacher is from the student: there is nothing to learn where it is not."""
    apart = float(np.abs(there.logprob_L - own.logprob_L).mean())
    agree = float((there.top_L == own.top_L).mean())
    numbers = {"mean_difference": apart, "same_top_token": agree}
    if apart < SAME_MEAN and not same:
        yield Finding(
            "signal",
            "fault",
            f"Teacher and student say the same ({apart:.4f} nats apart on average): these are the "
            "same weights under two names, and nothing can be learnt.",
            numbers,
        )
        return
    yield Finding(
        "signal",
        "ok",
        f"Teacher and student are {apart:.2f} nats apart on average, with the same most probable "
        f"token at {agree:.0%} of {len(own.top_L)} positions.",
        numbers,
    )


def _servers(
    teacher: str,
    base_urls: Sequence[str],
    options: dict[str, Any],
    sequences: Sequence[ForcedSequence],
    tokens: EventSpace,
    top_k: int,
    own: _Reading,
    there: _Reading | None,
    rounded: _Reading | None,
) -> Iterator[Finding]:
    """Read the texts through every server, twice, and compare."""
    readings: dict[str, _Reading] = {}
    for url in base_urls:
        try:
            first, again = (
                _served(teacher, url, options, sequences, tokens, top_k) for _ in range(2)
            )
        except GradalignError as error:
            yield Finding(url, "fault", f"{error.message} {error.hint}".strip())
            continue
        readings[url] = first
        signal = float(np.abs(first.logprob_L - own.logprob_L).mean())
        shift = _shift(first, there or own)
        if shift is not None:
            yield Finding(
                url,
                "fault",
                f"Log-probabilities lie {abs(shift)} position{'s' if abs(shift) > 1 else ''} too "
                f"{'late' if shift > 0 else 'early'}: they go with the tokens there, and not "
                "with their own.",
                {"shift": shift},
            )
            continue
        yield _against_itself(url, first, again, signal)
        if there is not None and rounded is not None:
            yield _against_weights(url, first, there, rounded, own)
        else:
            yield Finding(
                url, "note", "Its weights were not read here: another checkpoint would not show."
            )
    urls = list(readings)
    for other in urls[1:]:
        yield _against_replica(urls[0], other, readings)


def _served(
    teacher: str,
    url: str,
    options: dict[str, Any],
    sequences: Sequence[ForcedSequence],
    tokens: EventSpace,
    top_k: int,
) -> _Reading:
    """Read the texts through a server."""
    from gradalign.engines.server.distributions import AskedSequence, served_readings
    from gradalign.stages.servers import check_top, open_served_teacher

    nothing = np.zeros(0, dtype=np.int64)
    asked = [AskedSequence(sequence, nothing, []) for sequence in sequences]
    with open_served_teacher(
        teacher, [url], options, tokens=tokens, all_must_answer=True
    ) as engine:
        check_top(engine, top_k, url, "--top-k")
        views = {
            i: reading.view
            for i, reading in served_readings(engine, asked, num_view=1, num_top=top_k)
        }
    return _joined(views)


def _shift(served: _Reading, reference: _Reading) -> int | None:
    """Return by how many positions a reading lies off, None if by none.

    Log-probabilities of one text rise and fall together under any two language models, so that a
    correlation is highest where positions fit.
    """
    found = {}
    for shift in SHIFTS:
        pairs = []
        for text in np.unique(served.where_L):
            at = served.where_L == text
            one, two = served.logprob_L[at], reference.logprob_L[at]
            if len(one) > 2 * max(SHIFTS):
                begin, end = max(shift, 0), len(one) + min(shift, 0)
                pairs.append((one[begin:end], two[begin - shift : end - shift]))
        if not pairs:
            return None
        one, two = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        found[shift] = float(np.corrcoef(one, two)[0, 1]) if len(one) > 2 else 0.0
    best = max(found, key=lambda shift: found[shift])
    return best if best and found[best] > found[0] + CLEARER else None


def _apart(one: _Reading, other: _Reading) -> dict[str, float]:
    gap_L = np.abs(one.logprob_L - other.logprob_L)
    return {"largest": float(gap_L.max()), "mean": float(gap_L.mean())}


def _same(gap: dict[str, float]) -> bool:
    return gap["largest"] <= SAME_MAX and gap["mean"] <= SAME_MEAN


def _against_itself(url: str, first: _Reading, again: _Reading, signal: float) -> Finding:
    gap = _apart(first, again)
    part = gap["mean"] / signal if signal > 0 else float("inf")
    text = (
        f"Two readings differ by {gap['largest']:.4f} nats at most and {gap['mean']:.5f} on "
        f"average, {part:.1%} of its distance to the student."
    )
    return Finding(url, "ok" if _same(gap) else "fault", text, gap | {"signal": signal})


def _against_weights(
    url: str, served: _Reading, there: _Reading, rounded: _Reading, own: _Reading
) -> Finding:
    """Hold a server against the checkpoint that it is said to have."""
    gap, gap16 = _apart(served, there), _apart(served, rounded)
    signal = float(np.abs(there.logprob_L - own.logprob_L).mean())
    numbers = gap | {"signal": signal}
    if _same(gap):
        return Finding(url, "ok", f"It has the weights of this checkpoint in float32 "
                       f"({gap['largest']:.4f} nats at most).", numbers)  # fmt: skip
    spread = _apart(there, rounded)
    if gap["mean"] <= 3.0 * spread["mean"] + SAME_MEAN:
        kind = "bfloat16" if gap16["mean"] < gap["mean"] else "a lower precision"
        return Finding(
            url,
            "note",
            f"It computes in {kind}: up to {gap['largest']:.2f} nats off the same weights in "
            f"float32, {gap['mean']:.4f} on average, where its distance to the student is "
            f"{signal:.2f}.",
            numbers,
        )
    return Finding(
        url,
        "fault",
        f"It is not this checkpoint: {gap['mean']:.3f} nats off on average and "
        f"{gap['largest']:.2f} at most, where rounding to bfloat16 makes {spread['mean']:.4f}.",
        numbers,
    )


def _against_replica(first: str, other: str, readings: dict[str, _Reading]) -> Finding:
    gap = _apart(readings[first], readings[other])
    text = (
        f"It and {first} differ by {gap['largest']:.4f} nats at most and {gap['mean']:.5f} on "
        "average"
    )
    if _same(gap):
        return Finding(other, "ok", f"{text}.", gap)
    return Finding(
        other,
        "fault",
        f"{text}: these are not replicas. Serve the same checkpoint in the same precision.",
        gap,
    )

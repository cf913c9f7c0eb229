"""From the sampled responses of a run to what `gradalign.stages.gate.judging` judges."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gradalign.engines.requests import Request
from gradalign.engines.seeds import derive_seed
from gradalign.models import context_length, load_config, resolve_model
from gradalign.models.checkpoints.tokenizers import load_tokenizer
from gradalign.models.prompts.texts import texts_after
from gradalign.questions import Question
from gradalign.stages.base import Run
from gradalign.stages.gate.judging import Counts, Longer, Reading
from gradalign.stages.sample import Sample
from gradalign.stages.student import student_engine
from gradalign.store.shard import read_questions
from gradalign.verifiers import VerifierPool
from gradalign.verifiers.reading.answers import find_answer
from gradalign.verifiers.reading.response import spoken

ENOUGH = 0.8
"""Share of what the laxest reading accepts from which on a stricter one explains it."""

READ_AGAIN = 200
"""Responses at most that a laxer verifier is asked about."""

LONGER = 4
"""How much longer than --max-tokens a cut-off response may become when that is tried."""

LONGER_AT_LEAST = 256
"""Tokens that are added to it at least."""

TRIED = 6
"""Cut-off responses that are continued."""

SHOWN = 300
"""Characters of a response that are shown: its last ones, where answers stand."""


@dataclass(frozen=True)
class Sampled:
    """A sampled response as the gate looks at it."""

    question: Question
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    reward: float | None
    cut_off: bool
    error: str
    read_by: str | None
    answer: str | None

    @property
    def wrong(self) -> bool:
        """Whether the verifier has looked at it, and found it wrong."""
        return self.reward is not None and self.reward < 1.0 and not self.cut_off


def read_sampled(run: Run) -> list[Sampled]:
    """Read all responses of a run, in order."""
    return [item for shard in run.folder.files("spines") for item in _of_shard(run, shard)]


def _of_shard(run: Run, shard: str) -> Iterator[Sampled]:
    stored = {item.question.id: item for item in read_questions(run.folder, shard)}
    for row in run.folder.read_table("spines", shard).to_pylist():
        item = stored[row["question_id"]]
        yield Sampled(
            item.question,
            item.prompt_ids,
            tuple(row["token_ids"]),
            row["text"],
            row["reward"],
            row["finish_reason"] == "length",
            row["verifier_error"] or "",
            row.get("read_by"),
            row.get("answer_read"),
        )


def count(run: Run, sampled: Sequence[Sampled]) -> Counts:
    """Count what can be counted without a verifier or a model."""
    questions = {item.question.id: item for item in sampled}
    answers = {str(item.question.answer).strip() for item in questions.values()}
    compared = any(item.question.answer is not None for item in questions.values())
    known = [item for item in sampled if item.reward is not None]
    return Counts(
        responses=len(sampled),
        right=sum(item.reward == 1.0 for item in known),
        cut_off=sum(item.cut_off for item in sampled),
        failed=len(sampled) - len(known),
        empty=sum(not item.text.strip() and not item.cut_off for item in sampled),
        questions=len(questions),
        prompts=len({item.prompt_ids for item in questions.values()}),
        answers=len(answers) if compared else None,
        an_answer=min(answers, default="") if compared else "",
        readings=_cheap_readings(run.resolved.verifier, sampled),
        verifier=run.resolved.verifier,
        max_tokens=run.resolved.max_tokens,
    )


# --- laxer readings --------------------------------------------------------------------------

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_WORDS = re.compile(r"\w+")


def _cheap_readings(verifier: str, sampled: Sequence[Sampled]) -> tuple[Reading, ...]:
    wrong = [item for item in sampled if item.wrong]
    by_number = sum(last_number_agrees(item.text, item.question.answer) for item in wrong)
    return _ranked([Reading("by the last number", by_number, _better(verifier))])


def _ranked(readings: Sequence[Reading]) -> tuple[Reading, ...]:
    return tuple(sorted(readings, key=lambda item: -item.accepted))


def _better(verifier: str) -> str:
    """Return what reads the last number, where `verifier` does not."""
    if verifier == "math":
        return "Give a --verifier of your own (module:function), or regex:PATTERN."
    return "Give --verifier math, or regex:PATTERN with the answer in parentheses."


def last_number_agrees(text: str, answer: str | None) -> bool:
    """Whether the last number of a response is the row's answer, where that is a number.

    A comma may separate thousands or the parts of a sum; both are tried.
    """
    wanted = _value((answer or "").strip().lstrip("$").rstrip("%. "))
    said = spoken(text)
    if wanted is None or said is None:
        return False
    found = _NUMBER.findall(said[-2000:])
    if not found:
        return False
    last = found[-1].rstrip(",")
    return wanted in {_value(last), _value(last.rpartition(",")[2])}


def _value(text: str) -> float | None:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def read_again(run: Run, counts: Counts, sampled: Sequence[Sampled]) -> Counts:
    """Add the laxer readings that cost a little: other verifiers, answers in other notations."""
    wrong = [item for item in sampled if item.wrong and item.question.answer]
    some = wrong[:: max(1, len(wrong) // READ_AGAIN)]
    if not some:
        return counts
    scale = len(wrong) / len(some)
    spec = run.resolved.verifier
    given = [(item.text, item.question) for item in some]
    reduced = [(text, _reduced(question)) for text, question in given]
    readings = list(counts.readings)
    for other, name, mend, items in _trials(spec, given, reduced):
        with VerifierPool(
            other, run.config.verify_workers, run.config.verify_timeout_seconds
        ) as pool:
            accepted = sum(verdict.reward == 1.0 for verdict in pool.score(items))
        readings.append(Reading(name, round(scale * accepted), mend))
    held = sum(_holds(text, question.answer or "") for text, question in given)
    readings.append(
        Reading(
            "in so far as they hold the row's answer",
            round(scale * held),
            "Give a --verifier that reads the answer out of the response: math, choice, or "
            "regex:PATTERN.",
        )
    )
    # Those that have a plain remedy come first, if they explain most of what any explains.
    first = len(counts.readings)
    most = max(item.accepted for item in readings)
    plain = [item for item in readings[first:-1] if item.accepted >= ENOUGH * most > 0]
    others = [item for item in readings if item not in plain]
    return replace(counts, readings=(*_ranked(plain), *_ranked(others)))


_Items = list[tuple[str, Question]]


def _trials(spec: str, given: _Items, reduced: _Items) -> Iterator[tuple[str, str, str, _Items]]:
    """Yield (verifier, its name in a sentence, what to do, what to verify)."""
    changed = [
        (old.answer or "", new.answer or "")
        for (_, old), (_, new) in zip(given, reduced, strict=True)
        if old.answer != new.answer
    ]
    if changed:
        before, after = changed[0]
        mend = f"Give the rows the final answer only: {_short(after)!r} for {_short(before)!r}."
        yield spec, "by the final answer in the row's answer", mend, reduced
    if spec != "math" and importlib.util.find_spec("math_verify") is not None:
        yield "math", "by the verifier math", "Give --verifier math.", given
    letters = [re.fullmatch(r"\(?[A-J]\)?", (item.answer or "").strip()) for _, item in given]
    if not spec.startswith("choice") and all(letters):
        yield "choice", "by the verifier choice", "Give --verifier choice.", given


def _reduced(question: Question) -> Question:
    """Return a question with the final answer of a row that holds a whole solution."""
    found = find_answer(question.answer or "").text
    return replace(question, answer=found) if found else question


def _holds(text: str, answer: str) -> bool:
    """Whether a response has the row's answer in it, word by word, and it is not a number."""
    wanted = _WORDS.findall(answer.casefold())
    said = _WORDS.findall((spoken(text) or "").casefold())
    if not wanted or all(word.isdecimal() for word in wanted) or len("".join(wanted)) < 2:
        return False
    joined = "\0".join(("", *said, ""))
    return "\0".join(("", *wanted, "")) in joined


# --- what a verifier accepts -------------------------------------------------------------------


def try_others(run: Run, counts: Counts, sampled: Sequence[Sampled]) -> Counts:
    """Verify right responses as answers to questions that have another answer."""
    right = [item for item in sampled if item.reward == 1.0][: TRIED * 4]
    items: list[tuple[str, Question]] = []
    for item in right:
        other = next(
            (
                one.question
                for one in reversed(sampled)
                if one.question.id != item.question.id
                and one.question.answer != item.question.answer
            ),
            None,
        )
        if other is not None:
            items.append((item.text, other))
    if not items:
        return counts
    with VerifierPool(
        run.resolved.verifier, run.config.verify_workers, run.config.verify_timeout_seconds
    ) as pool:
        accepted = sum(verdict.reward == 1.0 for verdict in pool.score(items))
    return replace(counts, others_accepted=accepted, others_tried=len(items))


# --- ends --------------------------------------------------------------------------------------


def look_for_ends(run: Run, counts: Counts, sampled: Sequence[Sampled]) -> Counts:
    """Add what cut-off responses show of their end, with the model where it is at hand."""
    cut = [item for item in sampled if item.cut_off]
    tokenizer = load_tokenizer(
        resolve_model(run.config.student),
        run.revision_of(run.config.student),
        run.config.trust_remote_code,
    )
    ends = run.resolved.stop_token_ids
    words = ", ".join(
        f"{text!r} {token}"
        for token, text in zip(
            ends[:3], texts_after(tokenizer, [[token] for token in ends[:3]]), strict=True
        )
    )
    special = set(run.resolved.special_token_ids) - set(ends)
    held = Counter(token for item in cut for token in special & set(item.token_ids))
    other = None
    if held:
        token, responses = held.most_common(1)[0]
        other = (token, texts_after(tokenizer, [[token]])[0], responses)
    counts = replace(counts, ends=words, other_end=other)
    if other is None and run.config.executor == "local" and run.resolved.engine != "server":
        counts = replace(counts, longer=_continue(run, cut))
    return counts


def _continue(run: Run, cut: Sequence[Sampled]) -> Longer | None:
    """Let the student go on with some cut-off responses; None where its context has no room."""
    config, resolved = run.config, run.resolved
    some = cut[:: max(1, len(cut) // TRIED)][:TRIED]
    prompt = max(len(item.prompt_ids) for item in some)
    settings = load_config(
        config.student,
        revision=run.revision_of(config.student),
        trust_remote_code=config.trust_remote_code,
    )
    limit = max(LONGER * resolved.max_tokens, resolved.max_tokens + LONGER_AT_LEAST)
    context = context_length(settings)
    if context is not None:
        limit = min(limit, context - prompt)
    if limit <= 1.5 * resolved.max_tokens:
        return None
    requests = [
        Request(
            prompt_ids=(*item.prompt_ids, *item.token_ids),
            max_tokens=limit - len(item.token_ids),
            seed=derive_seed(config.seed, item.question.id, item.token_ids, 0),
        )
        for item in some
    ]
    lengths = []
    with student_engine(run, Sample.name, prompt + limit) as engine:
        for index, completion in engine.generate(requests):
            if completion.finish_reason != "length":
                lengths.append(len(some[index].token_ids) + len(completion.token_ids))
    return Longer(len(some), len(lengths), limit, max(lengths, default=0))


# --- examples ----------------------------------------------------------------------------------


def examples(sampled: Sequence[Sampled], number: int = 3) -> list[str]:
    """Return responses with what was read in each and what was wanted, of different questions."""
    ranked = sorted(
        sampled,
        key=lambda item: (
            not (item.wrong and last_number_agrees(item.text, item.question.answer)),
            not item.wrong,
        ),
    )
    shown: dict[str, Sampled] = {}
    for item in ranked:
        shown.setdefault(item.question.id, item)
    return [_example(place, item) for place, item in enumerate(list(shown.values())[:number], 1)]


def _example(place: int, item: Sampled) -> str:
    if item.error:
        read = f"verifier failed ({item.error})"
    elif item.cut_off:
        read = "cut off, not read"
    elif item.read_by is not None:
        read = f"read {_short(item.answer or '')!r} (rule {item.read_by})"
    else:
        read = "read as a whole"
    verdict = {None: "no verdict", 1.0: "right"}.get(item.reward, "wrong")
    answer = item.question.answer
    wanted = "wanted nothing in particular" if answer is None else f"wanted {_short(answer)!r}"
    text = " ".join(item.text.split())
    end = text if len(text) <= SHOWN else f"... {text[-SHOWN:]}"
    return f"  {place}. question {item.question.id}: {wanted}, {read}: {verdict}\n     {end!r}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:28]} ... {text[-28:]}"

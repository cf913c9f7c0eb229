r"""The verifier `choice`: which option a response settles on.

The grammar, in the order in which its rules are tried:

1. What counts is the text after the last closing mark of a thinking part (`</think>` and its
   like). Thinking that is never closed has said nothing. A line "Question:" after a statement
   begins another question, and the response ends before it.
2. Markup is no part of what is said: full-width and circled letters, emphasis, dollar signs,
   LaTeX's text commands (see `options.plain`).
3. Statements are made by a box, \boxed{B}; by a cue: "answer is", "answer:", "correct option
   is", "I choose", "I think it's", <answer>, "答案是", "Antwort:" and their like; and by a last
   line that is nothing but a name. The last statement counts, whatever came before. A cue that
   goes on about something else ("the answer is supported by ...") is no statement.
4. Without a statement, the name with which the last line begins counts; else that with which
   the first line begins; else the one option that is called correct ("B is the right choice").
   None of these lines may mention another option's letter.

A name is a letter or an option's text, after words such as "option", "probably", "the":

5. The longest text of an option that stands there goes first ("B. subtilis"), except that a
   lone letter is a letter ("A" is the first option though the second one's text were "A").
6. A letter stands alone, or in signs: B, b, (B), B), "B.", "B:", "B) text", "B - text". Without
   signs a word may follow only if it goes on from an answer ("B because"): "A dog" has no
   letter. A text that follows a letter must not be another option's.
7. A text stands whole, whatever its case unless that tells options apart, and blanks count
   between words only. It ends where a sentence or a clause ends, or before "because" and its
   like. For yes and no, true and false mean the same, and anything may follow a comma.

It is undecided, and its reward is 0, where a statement

8. names two options ("(B) and (C)", "B or C", "A, B", "A -> B", "B vs. C", "B, though C could"),
   or lists them line by line;
9. denies, doubts or depends: "not B", "neither", "B is wrong", "could be B", "B?", "B if",
   "I doubt that the answer is B";
10. gives a letter and another option's text, a text that two options have, or what no option
    is called; or is cut off ("Answer:", "Answer: (B", \boxed{B).

A response's time is linear in its length: of a very long one the last 64 cues are looked at.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gradalign.errors import TaskError
from gradalign.questions import LABELS, Question
from gradalign.verifiers.base import NOTHING, FunctionVerifier, Scored, Verifier, no_argument
from gradalign.verifiers.reading import cues
from gradalign.verifiers.reading.boxed import boxes
from gradalign.verifiers.reading.names import read, read_name, read_whole
from gradalign.verifiers.reading.options import Name, Options, Reading, options_of, plain
from gradalign.verifiers.reading.response import spoken
from gradalign.verifiers.registry import VERIFIERS


@VERIFIERS.register("choice")
def choice(argument: str) -> Verifier:
    """The option that the response settles on is the answer's.

    `gradalign.verifiers.choice` has the grammar. The row's answer is an option's letter or its
    text; a capital letter goes before a text.
    """
    no_argument("choice", argument)
    return FunctionVerifier(
        _equal, needs_answer=True, in_process=True, check_function=_check_question
    )


def _equal(text: str, question: Question) -> float:
    found, rule = _settled(text, question.choices)
    if not isinstance(found, Name):
        return Scored(0.0, None, "undecided" if found is not None else NOTHING)
    right = found.index == gold_choice(question)
    return Scored(float(right), LABELS[found.index], rule)


def _check_question(question: Question) -> None:
    if not question.choices:
        raise TaskError(
            f"question {question.id!r} has no choices.", "The verifier choice needs `choices`."
        )
    if len(question.choices) > len(LABELS):
        raise TaskError(
            f"question {question.id!r} has {len(question.choices)} choices.",
            f"There are letters for {len(LABELS)}.",
        )
    if gold_choice(question) is None:
        raise TaskError(
            f"question {question.id!r}: the answer {question.answer!r} is none of its choices.",
            "Give the letter of a choice or its text.",
        )


def gold_choice(question: Question) -> int | None:
    """Return the index of the option that the row's answer names, None if it names none.

    A capital letter is a letter; then comes an option's text; then b, (B), "B." and "B) text".
    """
    answer = (question.answer or "").strip()
    if len(answer) == 1 and answer in LABELS[: len(question.choices)]:
        return LABELS.index(answer)
    equal = [index for index, text in enumerate(question.choices) if _same(text) == _same(answer)]
    if len(equal) == 1:
        return equal[0]
    found = read_whole(plain(answer), options_of(question.choices[: len(LABELS)]))
    return found.index if isinstance(found, Name) else None


def _same(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def named_choice(text: str, choices: tuple[str, ...]) -> int | None:
    """Return the index of the option that a response settles on, None if on none."""
    found, _ = _settled(text, choices)
    return found.index if isinstance(found, Name) else None


def _settled(text: str, choices: tuple[str, ...]) -> tuple[Name | Reading | None, str]:
    """Return what a response settles on, and the rule that says so."""
    said = spoken(text)
    if said is None or not said.strip():
        return None, NOTHING
    options = options_of(choices[: len(LABELS)])
    found = _boxed(said, options)
    if found is not None:
        return found, "boxed"
    lines = plain(said.rstrip())  # a blank after a last backslash is LaTeX's
    for rule, reads in (("stated", _stated), ("line", _begun), ("called correct", _called_correct)):
        if found := reads(lines, options):
            return found, rule
    return None, NOTHING


# --- boxes -----------------------------------------------------------------------------------

_MAX_BOXES = 64
_BETWEEN_BOXES = re.compile(r"[\s$,;/.]*(?:(?:and|or|and/or|\\text\{ ?(?:and|or) ?\})[\s$]*)?")


def _boxed(said: str, options: Options) -> Name | Reading | None:
    """Return what the last box and the statements after it say; None without a box."""
    found = boxes(said)[-_MAX_BOXES:]
    if not found:
        return None
    last = found[-1]
    after = _stated(plain(said[last.end :]), options) if last.content is not None else None
    if after is not None:
        return after
    read = [_in_box(last.content, options)]
    for later, earlier in zip(reversed(found), reversed(found[:-1]), strict=False):
        if not _BETWEEN_BOXES.fullmatch(said[earlier.end : later.start]):
            break
        read.append(_in_box(earlier.content, options))
    names = {item.index if isinstance(item, Name) else None for item in read}
    return read[0] if len(names) == 1 else Reading.UNDECIDED


def _in_box(content: str | None, options: Options) -> Name | Reading:
    text = plain(content or "").strip()
    found = read(text, 0, options)
    if isinstance(found, Name) and _mentions_another(text, found, options):
        return Reading.UNDECIDED
    return found


# --- cues ------------------------------------------------------------------------------------

_MAX_CUES = 64


@dataclass(frozen=True)
class _Statement:
    """What is said at a place of a text."""

    start: int
    reading: Name | Reading


def _stated(lines: str, options: Options) -> Name | Reading | None:
    """Return the last statement of a text, None if it makes none."""
    lines = _before_next_question(lines, options)
    statement = _last_cue(lines, options)
    alone = _last_line_alone(lines, options)
    if alone is not None and (statement is None or alone.start > statement.start):
        statement = alone
    return None if statement is None else statement.reading


def _before_next_question(lines: str, options: Options) -> str:
    match = cues.NEXT_QUESTION.search(lines)
    if match is None or not lines[: match.start()].strip():
        return lines
    before = lines[: match.start()]
    made = _last_cue(before, options) is not None or _last_line_alone(before, options) is not None
    return before if made or _begun(before, options) is not None else lines


def _last_cue(lines: str, options: Options) -> _Statement | None:
    found = [
        (match.start(), match.end(), False)
        for match in cues.CUE.finditer(lines)
        if not cues.NO_CUE.search(lines, max(0, match.start() - 40), match.start())
    ]
    found += [(match.start(), match.end(), True) for match in cues.DOUBTFUL_CUE.finditer(lines)]
    found = sorted(found)[-_MAX_CUES:]
    for place in range(len(found) - 1, -1, -1):
        start, end, doubtful = found[place]
        if doubtful:
            return _Statement(start, Reading.UNDECIDED)
        reading = _after_cue(lines, end, options)
        if reading is Reading.NOTHING:
            continue
        # 'write "Answer: yes" or "Answer: no"'
        joined = place and cues.JOINED.search(lines, max(0, start - 8), start)
        if joined or cues.DOUBTED.search(lines, max(0, start - 60), start):
            reading = Reading.UNDECIDED
        return _Statement(start, reading)
    return None


_SHORT = re.compile(r"\s*(?:[^\s.!\n]{1,40}[ \t]?){0,3}(?=[.!?\n]|$)")


def _after_cue(lines: str, position: int, options: Options) -> Name | Reading:
    """Return what follows a cue: on its line, or on the next one that is not empty."""
    is_verb = lines[max(0, position - 2) : position].rstrip()[-1:].isalpha()
    while position < len(lines) and lines[position] in " \n:":
        position += 1
    reading = read(lines, position, options)
    if isinstance(reading, Name):
        if is_verb and lines[position:].strip() in ("a", "i"):
            return Reading.UNDECIDED  # "The answer is a", cut off before a noun
        end = lines.find("\n", reading.end)
        rest = lines[end:].lstrip() if end >= 0 else ""
        following = read_whole(rest.partition("\n")[0], options)
        if isinstance(following, Name) and following.index != reading.index:
            return Reading.UNDECIDED
    elif reading is Reading.NOTHING and _SHORT.match(lines, position):
        return Reading.UNDECIDED  # "Answer: E", or cut off
    return reading


# --- lines -----------------------------------------------------------------------------------


def _last_line_alone(lines: str, options: Options) -> _Statement | None:
    """Return the last line if it is a name and nothing else, and does not end a list."""
    body = lines.rstrip()
    start = body.rfind("\n") + 1
    reading = read_whole(body[start:], options)
    if not isinstance(reading, Name):
        return None
    before = body[:start].rstrip()
    previous = read_whole(before[before.rfind("\n") + 1 :], options)
    if isinstance(previous, Name) and previous.index == reading.index - 1:
        return _Statement(start, Reading.UNDECIDED)
    return _Statement(start, reading)


def _begun(lines: str, options: Options) -> Name | Reading | None:
    """Return the option with which the last line begins, or else the first."""
    written = lines.strip()
    first, _, rest = written.partition("\n")
    last = written[written.rfind("\n") + 1 :]
    following = rest.lstrip().partition("\n")[0]
    for line in (last, first) if rest else (first,):
        lead = cues.LEAD.match(line)
        reading = read(line, lead.end() if lead else 0, options)
        if reading in (Reading.NOTHING, Reading.DENIED):
            continue
        if isinstance(reading, Name):
            other = read_whole(following, options) if line is first and rest else None
            listed = isinstance(other, Name) and other.index != reading.index
            if listed or _mentions_another(line, reading, options):
                return Reading.UNDECIDED
        return reading
    return None


_MENTION = re.compile(r"(?<![\w'])[(\[]?([A-Z])(?:[)\]]|(?![\w'+#.-])|\.(?=\s|$))")


def _mentions_another(line: str, name: Name, options: Options) -> bool:
    """Whether another option's letter stands behind a name, as a letter."""
    for match in _MENTION.finditer(line, name.end):
        letter = match.group(1)
        # A text's line may speak of vitamin B, and any line of "A rose" and "I think".
        word = len(match.group()) == 1 and (letter in "AI" or not name.letter)
        if not word and letter in options.letters and letter != LABELS[name.index]:
            return True
    return False


_JOINED_BEFORE = re.compile(
    r"\b(?:or|and|nor|not|neither|either|both|if|whether)\b[^.\n]*$", re.IGNORECASE
)


def _called_correct(lines: str, options: Options) -> Name | Reading | None:
    """Return the option that is called the correct one; undecided if several are."""
    found: dict[int, Name] = {}
    for match in list(cues.CALLED_CORRECT.finditer(lines))[-_MAX_CUES:]:
        begin = max(lines.rfind("\n", 0, match.start()) + 1, match.start() - options.longest - 20)
        before = lines[begin : match.start()]
        for position in range(len(before)):
            if position and before[position - 1] not in " (\"'[":
                continue
            name = read_name(before, position, options)
            if isinstance(name, Name) and not before[name.end :].strip(" \"').,:"):
                if _JOINED_BEFORE.search(before, 0, position):
                    return Reading.UNDECIDED
                found[name.index] = name
                break
    if len(found) > 1:
        return Reading.UNDECIDED
    return next(iter(found.values()), None)

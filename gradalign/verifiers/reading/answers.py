r"""Where a mathematical answer stands in a response.

math-verify reads and compares expressions. Which part of a response is its answer is decided
here, in the part after a thinking part (`gradalign.verifiers.reading.response`), by the first of
these rules that finds one:

1. `boxed`: what the last \boxed holds. A last box that is never closed, or holds nothing that can
   be told, was cut off, and no other rule is asked. Boxes around nothing do not count.
2. `tag`: what the last <answer>...</answer> holds.
3. `stated`: what follows the last "the answer is", "Answer:", "the result is" and their kin;
   `hashes`: a last line "#### 42" that comes after it. A statement that denies, guesses or is
   cut off ("the answer is not 5", "5 or so", "Answer:") leaves the response without an answer.
4. `bold`: the last **answer** of the last paragraph.
5. `line`: the last line, where it is an expression and nothing else, or ends in "= 42".
6. `sentence`: the value of the last sentence that has an expression, of the last three. A
   question, a sentence of the prompt and a calculation that is not carried out do not count.

What value a sentence has is for `gradalign.verifiers.reading.sentences` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradalign.verifiers.base import NOTHING
from gradalign.verifiers.reading import cues
from gradalign.verifiers.reading.boxed import boxes
from gradalign.verifiers.reading.sentences import (
    COMMAND,
    LEAD,
    UNDECIDED,
    WORD,
    Value,
    pieces_of,
    read,
    value_of,
)

_MAX_SPAN = 400
"""Characters of a sentence that are looked at."""

_MAX_CUES = 64


@dataclass(frozen=True)
class Answer:
    """What a response gives as its answer.

    Attributes:
        text: the expression; None if there is none.
        rule: that found it, or `NOTHING`.
    """

    text: str | None
    rule: str


_NO_ANSWER = Answer(None, NOTHING)


def find_answer(said: str, question: str = "", *, words: bool = False) -> Answer:
    """Return a response's answer; time is linear in its length.

    Args:
        said: the response without its thinking part.
        question: the prompt; its own sentences are no answers.
        words: whether the row's answer is a word, so that words can be the answer.
    """
    found = [box for box in boxes(said) if box.content is None or box.content.strip()]
    if found:
        content = found[-1].content
        return _NO_ANSWER if content is None else Answer(content, "boxed")
    tagged = _tagged(said)
    if tagged is not None:
        return tagged
    said = _tidy(said)
    if not said.strip():
        return _NO_ANSWER
    for rule in (_stated, _bold, _last_line):
        answer = rule(said, words)
        if answer is not None:
            return answer
    return _last_sentence(said, question) or _NO_ANSWER


# --- text ------------------------------------------------------------------------------------

_CHARACTERS = {
    **dict.fromkeys(map(ord, "\u00a0\u3000\t\v\f"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\ufeff\r"), None),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'"),
    0x2028: "\n",
    0x2029: "\n",
    0x3002: ". ",
    0xFF1A: ":",
    0xFF1D: "=",
}
_TAG = re.compile(r"</?(?:b|i|u|em|strong|p|span)>|<br ?/?>")
_OPENING_TAG, _CLOSING_TAG = "<answer>", "</answer>"


def _tidy(said: str) -> str:
    return _TAG.sub("", said.translate(_CHARACTERS))


def _tagged(said: str) -> Answer | None:
    lower = said.lower() if said.isascii() else said
    start = lower.rfind(_OPENING_TAG)
    if start < 0:
        return None
    start += len(_OPENING_TAG)
    end = lower.find(_CLOSING_TAG, start)
    if end < 0:
        return _NO_ANSWER
    inside = said[start:end].strip()[: 4 * _MAX_SPAN]
    reading = read(_unmarked(_tidy(inside)), begins=True)
    return Answer(reading.text if isinstance(reading, Value) else inside, "tag")


# Stars that set words in bold, not those of 5**3.
_STARS = re.compile(r"(?<![\w)*])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w(*])")


def _unmarked(text: str) -> str:
    return _STARS.sub("", text).replace("`", "")


# --- statements ------------------------------------------------------------------------------

_MODAL = r"(?:is|are|was|were|would|must|should|could|might|may|can|cannot|isn't|has|will|be)\b"
_COPULA = (
    r"(?:(?:is|are|was|were|would be|must be|should be|has to be|will be|be|equals|becomes)\b"
    r"(?: equal to\b| therefore\b| thus\b| simply\b| then\b| indeed\b| given by\b)?[ ,]*:?"
    r"|'s\b|:|=)"
)
_CUE = re.compile(
    r"\b(?P<noun>answers?|ans|results?|solutions?)\b[\"')\]]{0,2}"
    rf"(?: (?!{_MODAL})[\w',\"()$\\-]{{1,20}}+){{0,8}}+ ?,? ?{_COPULA}"
    r"|^[ #>*]*(?:the )?(?:final |correct )?answer\b[ .*:]*$"
    r"|(?:答案)(?:应该)?(?:是|为|為|:)",
    re.IGNORECASE | re.MULTILINE,
)
_HASHES = re.compile(r"^[ >*]*####[ \t]*(?!#)(?P<rest>[^\n]*)$", re.MULTILINE)
_LIST_ITEM = re.compile(r"(?:[-+*•] |\d{1,2}[.)] )")
_OPEN = re.compile(
    r"[^\n]{0,40}?\b(?:not|unknown|unclear|undetermined|cannot|can't|either|possibly|perhaps|"
    r"maybe|probably not)\b",
    re.IGNORECASE,
)


def _stated(said: str, words: bool) -> Answer | None:
    """Return what the last statement says, None without one."""
    places = [(match.start(), match.end(), match["noun"]) for match in _CUE.finditer(said)]
    places += [(match.start(), match.start("rest"), "####") for match in _HASHES.finditer(said)]
    for start, end, noun in sorted(places, key=lambda place: place[:2])[-_MAX_CUES:][::-1]:
        if noun != "####" and cues.NO_CUE.search(said, max(0, start - 40), start):
            continue
        answer = _statement(said, start, end, noun, words)
        if answer is not None:
            return answer
    return None


def _statement(said: str, start: int, end: int, noun: str | None, words: bool) -> Answer | None:
    """Return what one cue says: None if it is none."""
    weak = noun is not None and noun.lower().startswith(("result", "solution"))
    rule = "hashes" if noun == "####" else "stated"
    span, same_line = _span(said, end)
    if not span:
        # Nothing comes any more: cut off. A heading without a body says nothing either.
        return None if weak else _NO_ANSWER
    span = _unmarked(span).strip(" :")
    if cues.DOUBTED.search(said, max(0, start - 60), start):
        return _NO_ANSWER
    begins = weak or not same_line or rule == "hashes"
    reading = read(span, begins=begins)
    if isinstance(reading, Value):
        bare = rule != "hashes" or len(WORD.findall(reading.rest)) <= 3
        return Answer(reading.text, rule) if bare else None
    if reading is UNDECIDED or (not weak and _OPEN.match(span)):
        return _NO_ANSWER
    if words and not weak and (same_line or rule == "hashes"):
        return Answer(LEAD.sub("", span).strip(" .!\"'"), rule)
    return None


_BLOCKS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("\\begin{", "\\end{"))
_SENTENCE_END = re.compile(r"(?<!\bi\.e)(?<!\be\.g)(?<!\bapprox)[.!?](?=[\s*\"')\]]|$)|\n")


def _span(said: str, position: int) -> tuple[str, bool]:
    """Return the sentence that follows a cue, and whether it is on the cue's line.

    A formula of several lines counts as one.
    """
    line_end = said.find("\n", position)
    line_end = len(said) if line_end < 0 else line_end
    same_line = said[position:line_end].strip(" *:#$") != ""
    start = position
    if not same_line:
        follow = re.compile(r"[\s*:#]*").match(said, position)
        start = follow.end() if follow else position
    window = said[start : start + _MAX_SPAN]
    lead = len(window) - len(window.lstrip(" *:"))
    for opening, closing in _BLOCKS:
        if window.startswith(opening, lead):
            stop = window.find(closing, lead + len(opening))
            if stop >= 0:
                stop += len(closing)
                return window[:stop].replace("\n", " ") + _sentence(window[stop:]), same_line
    text = _sentence(window)
    if not same_line and _LIST_ITEM.match(text):
        return "it", False  # the steps of a solution
    return text, same_line


def _sentence(text: str) -> str:
    """Return a text up to the end of its sentence; a formula's own full stops do not end it."""
    for match in _SENTENCE_END.finditer(text):
        if text.count("$", 0, match.start()) % 2 and "\n" not in match.group():
            # Between two dollar signs on one line, or after a price.
            close = text.find("$", match.end())
            line = text.find("\n", match.end())
            if 0 <= close < (line if line >= 0 else len(text)):
                continue
        return text[: match.start()]
    return text


# --- bold, last line, last sentence ----------------------------------------------------------

_BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)([^*\n]{1,200}?)(?<=\S)\*\*(?![\w*])")


def _last_paragraph(said: str) -> str:
    body = said.rstrip()
    start = body.rfind("\n\n")
    return body[start + 2 :] if start >= 0 else body


def _bold(said: str, words: bool) -> Answer | None:
    """Return the last bold answer of the last paragraph."""
    for inside in reversed(_BOLD.findall(_last_paragraph(said))):
        if inside.rstrip().endswith(":") or re.match(r"(?i)(?:step|note|example)\b", inside):
            continue
        reading = read(inside.strip(), begins=False)
        if isinstance(reading, Value) and not _unfinished(reading.text):
            return Answer(reading.text, "bold")
        if words and reading is None:
            return Answer(inside.strip(" .!"), "bold")
    return None


_LINE_LEAD = re.compile(
    r"(?:[-+•>] |=>|\\implies|\\Rightarrow|[→∴⇒]|(?:so|thus|therefore|hence|finally|then)\b)"
    r"[\s,:]*",
    re.IGNORECASE,
)


def _last_line(said: str, words: bool) -> Answer | None:
    """Return the last line where it is an expression, or ends in one after an equals sign."""
    body = said.rstrip()
    for opening, closing in _BLOCKS[:3]:
        if body.endswith(closing):
            start = body.rfind(opening, 0, len(body) - len(closing))
            if start >= 0 and "\n" in body[start:]:
                body = body[:start].rstrip() + "\n" + body[start:].replace("\n", " ")
    line = _unmarked(body[body.rfind("\n") + 1 :].strip())[: 4 * _MAX_SPAN].strip()
    lead = _LINE_LEAD.match(line)
    line = line[lead.end() :] if lead else line
    if line.endswith("?"):
        return None
    pieces = pieces_of(line.rstrip(" ."))
    if len(pieces) == 1 and not WORD.search(
        re.sub(COMMAND, " ", line[: pieces[0].start] + line[pieces[0].end :])
    ):
        text = value_of(pieces[0].text)
        alone = "=" in pieces[0].text or not _unfinished(text)
        return Answer(text, "line") if alone else None
    if pieces and "=" in line:
        reading = read(line.rstrip(" ."), begins=True)
        if isinstance(reading, Value) and len(WORD.findall(reading.rest)) <= 2:
            return None if _unfinished(reading.text) else Answer(reading.text, "line")
    if words and 0 < len(line.split()) <= 4 and not pieces:
        return Answer(line.strip(" .!\"'"), "line")
    return None


_UNFINISHED = re.compile(
    r"[\d)}]\s*(?:[+*×÷·⋅−–-]|\\times|\\cdot|\\div|/(?!\s*\d+\s*$))\s*\\?[\d({$]|[-+*/=×÷]\s*$"
)


def _unfinished(text: str) -> bool:
    """Whether an expression is a calculation that was not carried out."""
    return _UNFINISHED.search(text) is not None


_BLANKS = re.compile(r"\W+")


_NUMBER_OF_ITEM = re.compile(r"\s*\d{1,2}[.)] (?=\S)")


def _backwards(said: str) -> Iterator[str]:
    """Go through the sentences of the last lines, the last one first."""
    tail = said.rstrip()[-8 * _MAX_SPAN :]
    sentences: list[str] = []
    position = 0
    while position < len(tail):
        marker = _NUMBER_OF_ITEM.match(tail, position)
        start = marker.end() if marker else position
        end = start + len(_sentence(tail[start:]))
        sentence = tail[position:end]
        sentences.append(sentence + tail[end : end + 1])
        position = end + 1
    yield from reversed(sentences)


_MAX_SENTENCES = 3
_MAYBE = re.compile(
    r"\b(?:could|might|may) (?:also |possibly )?be\b|\b(?:perhaps|maybe|possibly)\b", re.IGNORECASE
)
# "12, which is the multiple of 2 and 6"; in "12, which is 3 * 4" the answer may come after.
_ASIDE = re.compile(
    r", which (?:is|are|means)(?: also| indeed| exactly)? (?:the|an?|not)\b.*", re.S
)


def _without_marker(line: str) -> str:
    marker = _LIST_ITEM.match(line)
    return line[marker.end() :] if marker else line


def _last_sentence(said: str, question: str) -> Answer | None:
    """Return the value of the last sentence that has an expression."""
    asked = _BLANKS.sub(" ", question)
    looked = 0
    for sentence in _backwards(said):
        sentence = _unmarked(sentence).strip()
        if not sentence:
            continue
        looked += 1
        if looked > _MAX_SENTENCES:
            return None
        if not any(re.search(r"\d|\\", piece.text) for piece in pieces_of(sentence)):
            continue
        if _MAYBE.search(sentence):
            return None
        sentence = _ASIDE.sub("", sentence)
        if sentence.endswith(("?", ":")) or _BLANKS.sub(" ", sentence).strip() in asked:
            return None
        reading = read(_without_marker(sentence.rstrip(" .!")), begins=False)
        if not isinstance(reading, Value) or _unfinished(reading.text):
            return None
        return Answer(reading.text, "sentence")
    return None

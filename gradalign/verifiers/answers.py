r"""Where a mathematical answer stands in a response.

math-verify reads and compares expressions. Which part of a response is its answer is decided
here, in the part after a thinking part (`gradalign.verifiers.response`), by the first of these
rules that finds one:

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

Of a sentence, the answer is the expression with which it begins ("15 apples because ..."), else
the one after its last "is", "=" or the like. Expressions joined by "or", "and" and commas are one
answer, the set of them: x = 5 or x = -2 is neither 5 nor -2. In a chain a = b = c it is c.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradalign.verifiers import cues
from gradalign.verifiers.base import NOTHING
from gradalign.verifiers.boxed import boxes

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
    reading = _read(_unmarked(_tidy(inside)), begins=True)
    return Answer(reading.text if isinstance(reading, _Value) else inside, "tag")


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
    reading = _read(span, begins=begins)
    if isinstance(reading, _Value):
        bare = rule != "hashes" or len(_WORD.findall(reading.rest)) <= 3
        return Answer(reading.text, rule) if bare else None
    if reading is _UNDECIDED or (not weak and _OPEN.match(span)):
        return _NO_ANSWER
    if words and not weak and (same_line or rule == "hashes"):
        return Answer(_LEAD.sub("", span).strip(" .!\"'"), rule)
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


# --- reading a sentence ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """An expression and what follows it in its sentence."""

    text: str
    rest: str = ""


class _Undecided:
    """A sentence that names values and settles on none."""


_UNDECIDED = _Undecided()

_COMMAND = r"\\(?:[A-Za-z]+|[^A-Za-z\s])"
_FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod|arcsin|arccos|arctan|infinity)"
_WORD = re.compile(r"[^\W\d_]{2,}")
_TEXT = r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox|operatorname)\s?\{[^{}]*\}"
_TOKEN = re.compile(
    rf"(?P<math>\$\$.+?\$\$|\$(?! )[^$\n]*?(?<![\s\\])\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\])"
    rf"|(?P<env>\\begin\{{[a-z]*matrix\}}.+?\\end\{{[a-z]*matrix\}})"
    rf"|(?P<text>{_TEXT})"
    rf"|(?P<number>(?:\\?[$€£¥]\s?)?(?:\d{{1,3}}(?:(?:,|\{{,\}}|\\,|\\!)\d{{3}})+(?![\d])|\d+)"
    r"(?:\.\d+)?|\.\d+)(?P<ordinal>st\b|nd\b|rd\b|th\b)?"
    rf"|(?P<function>{_FUNCTIONS}\b)"
    rf"|(?P<command>{_COMMAND})"
    r"|(?P<word>[^\W\d_][\w'-]*[\w]|[^\W\d_])"
    r"|(?P<operator>[-+*/^=<>≤≥≠≈±×÷·⋅−–%°√π∞²³½¼¾⅓⅔∪∩∈(){}\[\]|,:;!_~&])"
    r"|(?P<blank>\s+)|(?P<other>.)",
    re.DOTALL | re.IGNORECASE,
)
_UNIT_LETTERS = "mgslhkLNJWV"


@dataclass(frozen=True)
class _Piece:
    """An expression in a sentence.

    Attributes:
        start, end: its place.
        text: it.
    """

    start: int
    end: int
    text: str


_BLANK_EDGE = re.compile(r"^[\s,:;|)\]}=*/^>]+|[\s,:;|(\[{=*/^+<-]+$")
_HAS_VALUE = re.compile(
    r"\d|\\(?:infty|pi|emptyset|varnothing|sqrt|frac|pm)|[π∞½¼¾⅓⅔]|\b[A-Za-z]\b"
)
_SINGLE_WORDS = ("a", "i", "s")


def _pieces(text: str) -> list[_Piece]:
    """Return the expressions of a sentence: runs without an English word."""
    pieces: list[_Piece] = []
    start = end = -1

    def close() -> None:
        if start >= 0:
            piece = _piece(text, start, end)
            if piece is not None:
                pieces.append(piece)

    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        token = match.group()
        if kind == "ordinal":
            kind = "word"  # the 3rd day
        if kind == "math" and (_prose(token) or not token.strip("$ ")):
            kind = "number" if re.match(r"\$\s?\d", token) else "other"
        if kind == "blank":
            if "\n\n" in token:
                close()
                start = -1
            continue
        if kind == "word":
            following = text[match.end() : match.end() + 2]
            single = len(token) == 1 and not (
                token.lower() in _SINGLE_WORDS and re.match(r"\s[^\W\d]|'", following + " ")
            )
            touches = start >= 0 and end == match.start() and text[end - 1].isdigit()
            if not single and not (touches and len(token) <= 1):
                close()
                start = -1
                continue
        elif kind == "other":
            close()
            start = -1
            continue
        if start < 0:
            start = match.start()
        end = match.end()
    close()
    return pieces


def _prose(segment: str) -> bool:
    """Whether what stands between two dollar signs is prose between two prices."""
    inner = re.sub(_TEXT, " ", segment)
    inner = re.sub(_COMMAND, " ", inner)
    return bool(re.search(rf"\b(?!{_FUNCTIONS}\b)[A-Za-z]{{2,}}\b", inner)) and bool(
        re.match(r"\$\s?\d", segment)
    )


def _piece(text: str, start: int, end: int) -> _Piece | None:
    """Return a run of tokens as an expression without what hangs over at its ends."""
    while True:
        match = re.match(r"[\s,:;*/=|&~)\]}]+", text[start:end])
        if match:
            start += match.end()
        tail = re.search(r"(?<!\\)[\s,:;(\[{=*/^+<&~-]+$", text[start:end])
        if tail:
            end = start + tail.start()
        if not match and not tail:
            break
    inner = text[start:end]
    for opening, closing in ("()", "[]"):
        # A bracket that opens elsewhere is the sentence's, but (2, 5] is an interval.
        balance = sum(inner.count(c) for c in "([") - sum(inner.count(c) for c in ")]")
        if balance < 0 and inner.endswith(closing):
            inner, end = inner[:-1], end - 1
        elif balance > 0 and inner.startswith(opening):
            inner, start = inner[1:], start + 1
    if not _HAS_VALUE.search(inner):
        return None
    return _Piece(start, end, inner)


_LEAD = re.compile(
    r"(?:(?:that|therefore|thus|then|so|simply|just|it|it's|is|exactly|now|also|indeed|clearly|"
    r"again|to be|equal to|given by|the number|number|on|in|x|be|obviously|found to)\b[\s,:]*)+",
    re.IGNORECASE,
)
_ROUGHLY = re.compile(r"(?:approximately|about|around|roughly|nearly|almost|approx\.?)\s*$", re.I)
_BOUND = re.compile(
    r"(?P<ge>at least|no less than|not less than|minimum of)\s*$|(?P<le>at most|no more than|up to)"
    r"\s*$|(?P<gt>(?:more|greater|larger|higher) than|over|above)\s*$"
    r"|(?P<lt>(?:less|fewer|smaller|lower) than|under|below)\s*$|(?P<not>\bnot)\s*$",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    r"[\s,]*(?:times\b|multiplied\b|divided\b|plus\b|minus\b|more than\b|less than\b|fewer\b|"
    r"out of\b|of\b|to\b|squared\b|cubed\b|raised\b|is\b|are\b|equals\b|and a half\b|choose\b|"
    r"(?:more |less |percent |per cent )of\b)",
    re.IGNORECASE,
)
_JOIN = re.compile(
    r"(?P<units>[\s,]*(?:\\text\{[^{}]*\}|[^\W\d_]+\.?)?)"
    r"[\s,;]*(?:\\text\{\s*(?:or|and)\s*\}|\b(?:or|and)\b)[\s,]*(?:the |then |also )?$"
    r"|[\s,;]+$",
    re.IGNORECASE,
)
_IS = re.compile(
    r"(?:=|\b(?:is|are|was|be|equals?|has|have|had|gives?|get|gets|makes?|got|becomes?|means|total "
    r"of|leaves?|left with|costs?|takes?|need|needs|pays?|earns?|saves?|to)\b)[^=]{0,60}?$",
    re.IGNORECASE,
)
_PERCENT = re.compile(r"\s*(?:percent|per cent)\b(?! of)", re.IGNORECASE)
_SCALE = re.compile(r"\s*(thousand|million|billion|trillion)\b", re.IGNORECASE)
_POWERS = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _read(text: str, *, begins: bool) -> _Value | _Undecided | None:
    """Return the value of a sentence, None if it names none.

    Args:
        text: the sentence.
        begins: it must begin with the value.
    """
    pieces = _pieces(text)
    if not pieces:
        return None
    lead = _LEAD.match(text)
    first = pieces[0]
    opening = text[: first.start]
    begin = lead.end() if lead and lead.end() <= first.start else 0
    qualifier = text[begin : first.start].strip(" ,:;=*_\"'$([{\\")
    bound = _BOUND.search(opening)
    rough = _ROUGHLY.search(opening)
    at_once = not qualifier or bool(
        (bound and not text[begin : bound.start()].strip(" ,:"))
        or (rough and not text[begin : rough.start()].strip(" ,:"))
    )
    if at_once and (not _PHRASE.match(text, first.end) or _is_share(text, first)):
        return _joined(text, pieces, 0)
    if begins:
        return None
    for index in range(len(pieces) - 1, -1, -1):
        piece = pieces[index]
        before = text[pieces[index - 1].end if index else 0 : piece.start]
        if _PHRASE.match(text, piece.end):
            continue
        if index and _JOIN.fullmatch(before):
            continue  # the end of a list
        if _IS.search(before) or "=" in piece.text or index == 0:
            return _joined(text, pieces, index)
    return _UNDECIDED


_SHARE = re.compile(r"\\[dt]?frac|/|%")
_OF_A_THING = re.compile(r" of (?:the|a|an|his|her|their|its|all)\b[^\d\\$]*")


def _is_share(text: str, piece: _Piece) -> bool:
    """Whether it is a share of some thing (5/8 of the cake), and not of a number."""
    return bool(_SHARE.search(piece.text) and _OF_A_THING.fullmatch(text, piece.end))


def _joined(text: str, pieces: list[_Piece], index: int) -> _Value | _Undecided:
    """Return the value that begins with a piece, with those that "or", "and" or a comma join."""
    parts = [pieces[index]]
    units: set[str] = set()
    for piece in pieces[index + 1 :]:
        join = _JOIN.fullmatch(text, parts[-1].end, piece.start)
        if join is None:
            break
        units.add((join["units"] or "").strip(" ,").lower())
        parts.append(piece)
    last = parts[-1]
    rest = text[last.end :]
    if len(parts) > 1:
        after = re.match(r"\s*([^\W\d_]+)", rest)
        if any(units) and (len(units) > 1 or not after or after[1].lower() not in units):
            # 3 hours and 20 minutes is one quantity.
            return _Value(text[parts[0].start :].strip(" .,"), "")
        values = [_value(part.text) for part in parts]
        return _Value(", ".join(values), rest)
    value = _value(last.text)
    before = text[: last.start]
    percent, scale = _PERCENT.match(rest), _SCALE.match(rest)
    if percent:
        value += r"\%"
    elif scale:
        value += rf" \times 10^{{{_POWERS[scale[1].lower()]}}}"
    rough, bound = _ROUGHLY.search(before), _BOUND.search(before)
    if rough:
        value = rf"\approx {value}"
    elif bound:
        kinds = {"ge": r"\ge ", "le": r"\le ", "gt": "> ", "lt": "< ", "not": r"\neq "}
        value = kinds[str(bound.lastgroup)] + value
    return _Value(value, rest)


_DELIMITERS = re.compile(r"\$\$|(?<!\\)\$|\\\(|\\\)|\\\[|\\\]")
_PRICE = re.compile(r"\\?\$\s?(?=[\d.])")
_SIDE = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
_SPLIT = re.compile(r"(?:\\text\{\s*(?:or|and)\s*\}|\\quad|\\;|\b(?:or|and)\b)", re.IGNORECASE)


def _value(text: str) -> str:
    """Return an expression without dollar signs; of a chain of equations the last side."""
    text = _DELIMITERS.sub("", _PRICE.sub("", text) if text.count("$") % 2 else text).strip(" .,;:")
    parts = [part.strip(" ,") for part in _SPLIT.split(text) if part.strip(" ,")]
    if len(parts) > 1:
        return ", ".join(_value(part) for part in parts)
    sides = re.split(r"(?<![<>!\\:])=(?!=)", text)
    if len(sides) == 1:
        return text
    last = sides[-1].strip()
    if len(sides) == 2 and _SIDE.fullmatch(sides[0].strip()) and re.search(r"[A-Za-z]", last):
        return text  # an equation may be the answer: y = 2x + 1
    return last or text


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
        reading = _read(inside.strip(), begins=False)
        if isinstance(reading, _Value) and not _unfinished(reading.text):
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
    pieces = _pieces(line.rstrip(" ."))
    if len(pieces) == 1 and not _WORD.search(
        re.sub(_COMMAND, " ", line[: pieces[0].start] + line[pieces[0].end :])
    ):
        text = _value(pieces[0].text)
        alone = "=" in pieces[0].text or not _unfinished(text)
        return Answer(text, "line") if alone else None
    if pieces and "=" in line:
        reading = _read(line.rstrip(" ."), begins=True)
        if isinstance(reading, _Value) and len(_WORD.findall(reading.rest)) <= 2:
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
        if not any(re.search(r"\d|\\", piece.text) for piece in _pieces(sentence)):
            continue
        if _MAYBE.search(sentence):
            return None
        sentence = _ASIDE.sub("", sentence)
        if sentence.endswith(("?", ":")) or _BLANKS.sub(" ", sentence).strip() in asked:
            return None
        reading = _read(_without_marker(sentence.rstrip(" .!")), begins=False)
        if not isinstance(reading, _Value) or _unfinished(reading.text):
            return None
        return Answer(reading.text, "sentence")
    return None

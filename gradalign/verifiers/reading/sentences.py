"""The value of a sentence that gives an answer, for the verifier `math`.

Of a sentence it is the expression with which it begins ("15 apples because ..."), else the one
after its last "is", "=" or the like. Expressions joined by "or", "and" and commas are one value,
the set of them: x = 5 or x = -2 is neither 5 nor -2. In a chain a = b = c it is c.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Value:
    """An expression and what follows it in its sentence."""

    text: str
    rest: str = ""


class Undecided:
    """A sentence that names values and settles on none."""


UNDECIDED = Undecided()

COMMAND = r"\\(?:[A-Za-z]+|[^A-Za-z\s])"
"""A command of LaTeX."""

_FUNCTIONS = r"(?:sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|pi|mod|arcsin|arccos|arctan|infinity)"
WORD = re.compile(r"[^\W\d_]{2,}")
"""More than a letter, which may be a variable."""

_TEXT = r"\\(?:text(?:bf|it|rm)?|mathrm|mathbf|mbox|operatorname)\s?\{[^{}]*\}"
_TOKEN = re.compile(
    rf"(?P<math>\$\$.+?\$\$|\$(?! )[^$\n]*?(?<![\s\\])\$(?!\d)|\\\(.+?\\\)|\\\[.+?\\\])"
    rf"|(?P<env>\\begin\{{[a-z]*matrix\}}.+?\\end\{{[a-z]*matrix\}})"
    rf"|(?P<text>{_TEXT})"
    rf"|(?P<number>(?:\\?[$€£¥]\s?)?(?:\d{{1,3}}(?:(?:,|\{{,\}}|\\,|\\!)\d{{3}})+(?![\d])|\d+)"
    r"(?:\.\d+)?|\.\d+)(?P<ordinal>st\b|nd\b|rd\b|th\b)?"
    rf"|(?P<function>{_FUNCTIONS}\b)"
    rf"|(?P<command>{COMMAND})"
    r"|(?P<word>[^\W\d_][\w'-]*[\w]|[^\W\d_])"
    r"|(?P<operator>[-+*/^=<>≤≥≠≈±×÷·⋅−–%°√π∞²³½¼¾⅓⅔∪∩∈(){}\[\]|,:;!_~&])"
    r"|(?P<blank>\s+)|(?P<other>.)",
    re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Piece:
    """An expression in a sentence.

    Attributes:
        start, end: its place.
        text: it.
    """

    start: int
    end: int
    text: str


_HAS_VALUE = re.compile(
    r"\d|\\(?:infty|pi|emptyset|varnothing|sqrt|frac|pm)|[π∞½¼¾⅓⅔]|\b[A-Za-z]\b"
)
_SINGLE_WORDS = ("a", "i", "s")


def pieces_of(text: str) -> list[Piece]:
    """Return the expressions of a sentence: runs without an English word."""
    pieces: list[Piece] = []
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
    inner = re.sub(COMMAND, " ", inner)
    return bool(re.search(rf"\b(?!{_FUNCTIONS}\b)[A-Za-z]{{2,}}\b", inner)) and bool(
        re.match(r"\$\s?\d", segment)
    )


def _piece(text: str, start: int, end: int) -> Piece | None:
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
    return Piece(start, end, inner)


LEAD = re.compile(
    r"(?:(?:that|therefore|thus|then|so|simply|just|it|it's|is|exactly|now|also|indeed|clearly|"
    r"again|to be|equal to|given by|the number|number|on|in|x|be|obviously|found to)\b[\s,:]*)+",
    re.IGNORECASE,
)
"""Words that may come before a value and say nothing of it."""

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


def read(text: str, *, begins: bool) -> Value | Undecided | None:
    """Return the value of a sentence, None if it names none.

    Args:
        text: the sentence.
        begins: it must begin with the value.
    """
    pieces = pieces_of(text)
    if not pieces:
        return None
    lead = LEAD.match(text)
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
    return UNDECIDED


_SHARE = re.compile(r"\\[dt]?frac|/|%")
_OF_A_THING = re.compile(r" of (?:the|a|an|his|her|their|its|all)\b[^\d\\$]*")


def _is_share(text: str, piece: Piece) -> bool:
    """Whether it is a share of some thing (5/8 of the cake), and not of a number."""
    return bool(_SHARE.search(piece.text) and _OF_A_THING.fullmatch(text, piece.end))


def _joined(text: str, pieces: list[Piece], index: int) -> Value | Undecided:
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
            return Value(text[parts[0].start :].strip(" .,"), "")
        values = [value_of(part.text) for part in parts]
        return Value(", ".join(values), rest)
    value = value_of(last.text)
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
    return Value(value, rest)


_DELIMITERS = re.compile(r"\$\$|(?<!\\)\$|\\\(|\\\)|\\\[|\\\]")
_PRICE = re.compile(r"\\?\$\s?(?=[\d.])")
_SIDE = re.compile(r"[A-Za-z](?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
_SPLIT = re.compile(r"(?:\\text\{\s*(?:or|and)\s*\}|\\quad|\\;|\b(?:or|and)\b)", re.IGNORECASE)


def value_of(text: str) -> str:
    """Return an expression without dollar signs; of a chain of equations the last side."""
    text = _DELIMITERS.sub("", _PRICE.sub("", text) if text.count("$") % 2 else text).strip(" .,;:")
    parts = [part.strip(" ,") for part in _SPLIT.split(text) if part.strip(" ,")]
    if len(parts) > 1:
        return ", ".join(value_of(part) for part in parts)
    sides = re.split(r"(?<![<>!\\:])=(?!=)", text)
    if len(sides) == 1:
        return text
    last = sides[-1].strip()
    if len(sides) == 2 and _SIDE.fullmatch(sides[0].strip()) and re.search(r"[A-Za-z]", last):
        return text  # an equation may be the answer: y = 2x + 1
    return last or text

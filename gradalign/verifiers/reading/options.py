"""How a text names one of a question's options: by its letter or by its text."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import lru_cache

from gradalign.questions import LABELS

_CHARACTERS = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width to ASCII
    **{0x24B6 + index: f"({letter})" for index, letter in enumerate(LABELS)},  # circled
    **{0x249C + index: f"({letter.lower()})" for index, letter in enumerate(LABELS)},
    **dict.fromkeys(map(ord, "\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\t\v\f"), " "),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad\r"), None),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'"),
    **dict.fromkeys(map(ord, "\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d"), '"'),
    **dict.fromkeys(map(ord, "\u2010\u2011\u2212\u2013"), "-"),
    **{ord(mark): "(" for mark in "\u3010\u3014"},
    **{ord(mark): ")" for mark in "\u3011\u3015"},
    0x2014: " - ",
    0x3001: ",",
    0x3002: ". ",
    0xFF0C: ", ",
    0xFF1A: ": ",
    0xFF0E: ". ",
    0x00D7: r"\times ",
    0x03C0: r"\pi ",
    0x2264: r"\le ",
    0x2265: r"\ge ",
    0x00B0: r"^\circ ",
    0x2028: "\n",
    0x2029: "\n",
    0x0085: "\n",
}
_LATEX = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (
            r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|tt|sf)|mbox|bm)\s?\{([^{}]*)\}",
            r"\1",
        ),
        (
            r"\\(?:text(?:bf|it|rm|tt|sf|normal)?|math(?:rm|bf|it|tt|sf)|mbox|bm)\s?\{([^{}]*)\}",
            r"\1",
        ),
        (r"\\[()\[\]]|\\(?:left|right|displaystyle|limits)(?![A-Za-z])", " "),
        (r"\\[,;!:]|\\q?quad(?![A-Za-z])|\\(?= )", " "),
        (r"\\([%$&#_])", r"\1"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\([lg])eq(?![A-Za-z])", r"\\\1e"),
        (r"\^\{([^{}\\ ])\}", r"^\1"),
        (r"\^\{\\circ\}", r"^\\circ"),
        (r"\\frac\s?([0-9])\s?([0-9])", r"\1/\2"),
        (r"\\frac\s?\{([A-Za-z0-9]+)\}\s?\{([A-Za-z0-9]+)\}", r"\1/\2"),
    )
)
_MARKUP = tuple(
    (re.compile(pattern, re.MULTILINE), replacement)
    for pattern, replacement in (
        (r"</?(?:b|i|u|em|strong|p|span|code)>|<br ?/?>", " "),
        (r"^ *(?:#{1,6}|>|[*+\u2022\u2023-])(?= )", " "),
        # Stars and underscores that set words in bold, not those within a product or a name.
        (r"(?<![\w)])[*_]+(?! )|(?<! )[*_]+(?![\w(])", ""),
        (r"[`$]|~~", ""),
        (r" {2,}", " "),
        (r"^ | $", ""),
    )
)


def plain(text: str) -> str:
    """Return a text without markup: one form for what is written in many.

    Full-width and circled letters, typographic quotes and blanks become ASCII; Markdown's
    and HTML's emphasis, dollar signs, and LaTeX's text commands, sizes and spaces go; simple
    fractions become a/b. Lines stay.
    """
    text = text.translate(_CHARACTERS)
    if "\\" in text or "^{" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return text


class Reading(enum.Enum):
    """What a piece of text says when it names no option."""

    NOTHING = "it is about something else"
    UNDECIDED = "it names several options or leaves it open"
    DENIED = "it says of an option that it is wrong"


@dataclass(frozen=True)
class Name:
    """An option that a text names.

    Attributes:
        index: of the option.
        end: where the name ends in the text.
        letter: whether its letter was used, and not only its text.
        marked: whether signs set the letter off as one: (B), B), "B." or "B:".
    """

    index: int
    end: int
    letter: bool
    marked: bool


_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")
_OWN_LABEL = r"[(\[]?{letter}[)\].:] ?"
_LABEL = re.compile(
    r"(?P<open>[(\[{<\"']{0,2}) ?(?P<letter>[A-Za-z])(?P<close> ?[)\]}>\"']{1,2})?"
    r"(?P<mark>[.:](?=[\s)\]\"'}]|$)|[)\]])?"
)
_NOT_AFTER_LETTER = re.compile(r"\.\.|\u2026|[A-Za-z0-9_+#^=]|['-][A-Za-z0-9]|\.[A-Za-z0-9]|\\|\*")
_NOT_AFTER_TEXT = re.compile(r"\.\.|\u2026|['.,:][^\W_]|[-/%^+=<>*\\_\[{$\u20ac#@~]|: ?\d")
_SYNONYMS = ({"yes": "true", "no": "false"}, {"true": "yes", "false": "no"})
_NONE = re.compile(
    r"none of (?:the above|these|those|the (?:other |above )?options)", re.IGNORECASE
)
_ALL = re.compile(r"all of (?:the above|these|those|the (?:other |above )?options)", re.IGNORECASE)


class Options:
    """A question's options, ready to be found in texts that `plain` has been through.

    Args:
        choices: their texts, in order, at most 26.
    """

    def __init__(self, choices: tuple[str, ...]) -> None:
        self.letters = LABELS[: len(choices)]
        texts = [" ".join(plain(choice).split()) for choice in choices]
        labelled = [
            re.match(_OWN_LABEL.format(letter=letter), text)
            for letter, text in zip(self.letters, texts, strict=True)
        ]
        if len(texts) > 1 and all(labelled):  # the letters stand in the texts already
            texts = [
                text[match.end() :] for match, text in zip(labelled, texts, strict=True) if match
            ]
        self.texts = tuple(text.rstrip(". ") or text for text in texts)
        self.longest = max(map(len, self.texts), default=0)
        self.truth = {text.casefold() for text in self.texts} in ({"yes", "no"}, {"true", "false"})
        # "B. subtilis" among the options makes "B." the beginning of a name and no letter.
        self.abbreviated = {text[0] for text in self.texts if re.match(r"[A-Z]\. ?[^\W\d_]", text)}
        self._patterns = [
            (index, re.compile(_pattern(text), flags), flags == 0)
            for index, text in enumerate(self.texts)
            if text
            for flags in (re.IGNORECASE, 0)
        ]
        self._patterns += self._other_words()

    def _other_words(self) -> list[tuple[int, re.Pattern[str], bool]]:
        """Return other words for an option: true for yes, "none of the above" and its like."""
        folded = [text.casefold() for text in self.texts]
        found: list[tuple[int, re.Pattern[str], bool]] = []
        if self.truth:
            for synonyms in _SYNONYMS:
                found += [
                    (index, re.compile(synonyms[text], re.IGNORECASE), True)
                    for index, text in enumerate(folded)
                    if text in synonyms
                ]
        for pattern in (_NONE, _ALL):
            meant = [index for index, text in enumerate(folded) if pattern.fullmatch(text)]
            found += [(index, pattern, True) for index in meant if len(meant) == 1]
        return found

    def by_text(self, text: str, position: int) -> Name | Reading:
        """Return the option whose text stands at a position: the longest, in this case if any.

        UNDECIDED if two options have the text.
        """
        best = -1
        found: dict[int, bool] = {}
        for index, pattern, exact in self._patterns:
            match = pattern.match(text, position)
            if match is None or match.end() < best or not _ends(text, match.end()):
                continue
            if match.end() > best:
                best, found = match.end(), {}
            found[index] = found.get(index, False) or exact
        chosen = [index for index, exact in found.items() if exact] or list(found)
        if not chosen:
            return Reading.NOTHING
        if len(chosen) > 1:
            return Reading.UNDECIDED
        return Name(chosen[0], best, letter=False, marked=False)

    def by_letter(self, text: str, position: int) -> Name | None:
        """Return the option whose letter stands at a position, whatever follows it."""
        match = _LABEL.match(text, position)
        if match is None or match["letter"].upper() not in self.letters:
            return None
        opened, closed = match["open"], (match["close"] or "").strip()
        if any(mark in opened for mark in "([{<") and not (closed or match["mark"]):
            return None  # cut off, or the beginning of a remark
        touches = _NOT_AFTER_LETTER.match(text, match.end())
        if (touches and not (opened and closed and touches.group().isalpha())) or any(
            mark in closed and other not in opened for mark, other in ("''", "><")
        ):
            return None  # within a word or a formula, or B'

        marked = bool(closed or match["mark"])
        return Name(LABELS.index(match["letter"].upper()), match.end(), letter=True, marked=marked)


@lru_cache(maxsize=256)
def options_of(choices: tuple[str, ...]) -> Options:
    """Return the options of a question; made once."""
    return Options(choices)


def _pattern(text: str) -> str:
    """Return a pattern for a text in which blanks matter between words only."""
    parts: list[str] = []
    previous: re.Match[str] | None = None
    for token in _TOKEN.finditer(text):
        if previous is not None:
            words = previous.group()[-1].isalnum() and token.group()[0].isalnum()
            adjacent = previous.end() == token.start()
            parts.append("" if words and adjacent else r"\s{1,3}" if words else r"\s{0,3}")
        parts.append(re.escape(token.group()))
        previous = token
    return "".join(parts)


def _ends(text: str, end: int) -> bool:
    """Whether an option's text may end here: not within a word or a number."""
    if end >= len(text):
        return True
    if text[end].isalnum() and text[end - 1].isalnum():
        return False
    return not _NOT_AFTER_TEXT.match(text, end) or (
        text[end] == "/" and not (text[end - 1].isdigit() and text[end + 1 : end + 2].isdigit())
    )

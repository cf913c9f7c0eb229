r"""A boxed answer, written as math-verify reads it.

math-verify decides what is equal. It reads LaTeX as an author types it; models type more. In
this order an expression is rewritten, the row's answer and the response's alike:

1. Full-width signs, digits of any script, and signs such as minus, times, root, infinity,
   degree, superscripts and vulgar fractions become their LaTeX.
2. Emphasis (`**5**`), braces and dollar signs around all of it, \text around a bare number, and a
   closing full stop, comma or semicolon go.
3. Separators of thousands go: 1\,234 and the other TeX spaces, 1 234, 1{,}234, 1\!234, 1_234,
   1'234, and 1,234 that stands alone or in a list with blanks after its commas. A group has
   three digits, and one number has one kind of separator.
4. 3 1/2 is 3\frac{1}{2}; 0{.}5 is 0.5; currency signs and words next to a number go.
5. 1e-05, 2.5E3, 10^{22} and 6.02 \times 10^{23} become decimal digits.
6. A letter that stands against a number is a variable unless it is one of the units m, s, g, h
   and l, and then only if the row's answer is a plain number: 3t is not 3.

What is no exact answer equals no exact answer: a number that goes on (5\ldots, 5...), a bare
relation (> 5, \neq 5, \approx 5). Of "exact \approx decimal" the exact part is taken, or, where
the row's answer is a decimal, the decimal.
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from functools import lru_cache

_MAX_EXPONENT = 400

_SIGNS = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full width to ASCII
    **dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2212\ufe63"), "-"),
    **dict.fromkeys(map(ord, "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u3000"), " "),
    **dict.fromkeys(map(ord, "\u2008\u2009\u200a\u202f\u205f"), r"\,"),
    **dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff\u00ad"), None),
    **dict.fromkeys(map(ord, "\u2018\u2019\u02bc"), "'"),
    0x00D7: r"\times ",
    0x00F7: r"\div ",
    0x00B7: r"\cdot ",
    0x22C5: r"\cdot ",
    0x2215: "/",
    0x2044: "/",
    0x03C0: r"\pi ",
    0x221E: r"\infty ",
    0x2264: r"\le ",
    0x2265: r"\ge ",
    0x2260: r"\neq ",
    0x2248: r"\approx ",
    0x2243: r"\approx ",
    0x00B1: r"\pm ",
    0x00B0: r"^\circ ",
    0x222A: r"\cup ",
    0x2208: r"\in ",
    0x2026: r"\ldots ",
    0x22EF: r"\cdots ",
}
_SUPERSCRIPTS = dict(
    zip(
        "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a",
        "0123456789-+",
        strict=True,
    )
)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_ROOT = re.compile("\u221a ?(?:([0-9]+(?:\\.[0-9]+)?|[A-Za-z])|(?=[({]))")
_WORDS = r"\\(?:text(?:bf|it|rm|normal)?|mathrm|mathbf|mbox)"
_TEXT_NUMBER = re.compile(rf"{_WORDS}\s?\{{\s*([-+]?[0-9][0-9.,/ ]*)\s*\}}")
_TEXT_INFINITY = re.compile(rf"{_WORDS}\s?\{{\s*infinity\s*\}}")
_EMPHASIS = re.compile(r"(\*{1,3}|__)(?=\S)(.+?)(?<=\S)\1", re.DOTALL)

_WHOLE = re.compile(r"\$([^$]+)(?<!\\)\$|\{([^{}]+)(?<!\\)\}")

_SEPARATORS = (
    r"\\[,;: ]",
    r" ",
    r"~",
    r"\{,\}",
    r",\\!",
    r"\{,\}\\!",
    r"\\!",
    r"_",
    r"\\_",
    r"'",
    r"\\,\\!",
)
_BEFORE_NUMBER = r"(?<![0-9.A-Za-z_^])(?<![0-9][,'_])"
_GROUPED = tuple(
    re.compile(rf"{_BEFORE_NUMBER}([0-9]{{1,3}}(?:{separator}[0-9]{{3}})+)(?![0-9])")
    for separator in _SEPARATORS
)
_COMMA_GROUPED = re.compile(rf"{_BEFORE_NUMBER}([1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+)(?![0-9]|,[0-9])")
_ALONE = re.compile(r"[-+\s$\\%]*[0-9,]+(?:\.[0-9]+)?[\s$\\%]*")
_NOT_DIGIT = re.compile(r"[^0-9]")

_MIXED = re.compile(r"([-+]?[0-9]+)(?:\s|\\[ ,;:])\s*([0-9]+)\s*/\s*([0-9]+)")
_CURRENCY = re.compile(
    r"\\(?:pounds|euro|texteuro|textsterling)(?![A-Za-z])|[\u20ac\u00a3\u00a5\u20b9\u20a9]"
)
_CURRENCY_WORD = re.compile(r"(?<=[0-9])\s*(?:dollars?|cents?|euros?|pounds?|USD|EUR|GBP)$")
_SCIENTIFIC = re.compile(
    r"(?<![0-9A-Za-z.\\])([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([-+]?[0-9]{1,4})(?![0-9A-Za-z.^{])"
)
_POWER = re.compile(
    r"([-+]?)\s*(?:([0-9]+(?:\.[0-9]+)?)\s*(?:\\times|\\cdot|\*|x)\s*)?"
    r"10\s*\^\s*(?:\{\s*([-+]?[0-9]{1,4})\s*\}|([0-9]))"
)
_NUMBER = re.compile(r"([-+]?)\s*([0-9]+)(?:\.([0-9]*))?|([-+]?)\s*\.([0-9]+)")
_LETTER_UNIT = re.compile(r"(?<=[0-9}])\s*([A-Za-z])\s*$")
_UNITS = "msghl"

_ELLIPSIS = re.compile(r"\\(?:l|c|d|v|h)?dots[a-z]?(?![A-Za-z])|\.\.")
_RELATION = re.compile(
    r"\s*(?:[<>~]|\\(?:geq?q?|leq?q?|neq?|gt|lt|not|sim|simeq|equiv|geqslant|leqslant)(?![A-Za-z]))"
)
_APPROXIMATELY = re.compile(r"\\(?:approx(?:eq)?|simeq|sim|doteq)(?![A-Za-z])|~=")


def rewrite(text: str) -> str:
    """Return an expression as math-verify reads it: rules 1 to 5."""
    text = _signs(text).strip()
    text = _EMPHASIS.sub(r"\2", text) if "**" in text or text.startswith(("*", "_")) else text
    text = _TEXT_INFINITY.sub(r"\\infty", _TEXT_NUMBER.sub(r"\1", text))
    for _ in range(3):
        text = _without_stop(text)
        inner = _WHOLE.fullmatch(text)
        if inner is None:
            break
        text = (inner[1] or inner[2]).strip()
    text = text.replace("{.}", ".")
    for pattern in _GROUPED:
        text = pattern.sub(lambda match: _NOT_DIGIT.sub("", match.group()), text)
    if ", " in text or _ALONE.fullmatch(text):
        text = _COMMA_GROUPED.sub(lambda match: match.group().replace(",", ""), text)
    text = _CURRENCY_WORD.sub("", _CURRENCY.sub("", text)).strip()
    mixed = _MIXED.fullmatch(text)
    if mixed:
        return rf"{mixed[1]}\frac{{{mixed[2]}}}{{{mixed[3]}}}"
    text = _SCIENTIFIC.sub(lambda match: _shifted(match[1], match[2]) or match.group(), text)
    power = _POWER.fullmatch(text)
    if power:
        digits = _shifted(power[2] or "1", power[3] or power[4])
        text = f"{power[1]}{digits}" if digits else text
    return text


def without_units(text: str, gold: str) -> str:
    """Keep a letter at a number from being read as a unit, where it is none: rule 6."""
    letter = _LETTER_UNIT.search(text)
    if letter is None or (letter.group(1) in _UNITS and plain_number(gold) is not None):
        return text
    return f"{text[: letter.start()]}{{{letter.group(1)}}}"


def exact_part(given: str, gold: str) -> str | None:
    """Return what of a rewritten answer can be compared with the row's, None if nothing.

    Args:
        given: the response's answer, rewritten.
        gold: the row's, rewritten.
    """
    if _ELLIPSIS.search(given) or _ELLIPSIS.search(gold):
        # Sequences that go on are compared letter by letter: math-verify drops the dots.
        return gold if "".join(given.split()) == "".join(gold.split()) else None
    parts = _APPROXIMATELY.split(given)
    if len(parts) > 1 and not _APPROXIMATELY.search(gold):
        rounded = re.fullmatch(r"[-+]?[0-9]*\.[0-9]+", gold) is not None
        given = parts[-1].strip() if rounded else parts[0].strip()
    relation = _RELATION.match(given)
    if relation and not _RELATION.match(gold):
        return None
    return given or None


def plain_number(text: str) -> tuple[str, str] | None:
    """Return the digits before (with the sign) and after the point of a decimal number.

    Without zeros that say nothing, so that equal numbers have equal digits; None if the text
    is no number.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    whole = (match[2] or "").lstrip("0") or "0"
    rest = (match[3] or match[5] or "").rstrip("0")
    negative = "-" in (match[1] or match[4] or "") and (whole != "0" or rest != "")
    return ("-" if negative else "") + whole, rest


def _signs(text: str) -> str:
    if text.isascii():
        return text
    text = text.translate(_SIGNS)
    text = _RAISED.sub(lambda match: f"^{{{''.join(map(_SUPERSCRIPTS.get, match.group()))}}}", text)  # type: ignore[arg-type]
    text = _ROOT.sub(lambda match: rf"\sqrt{{{match[1]}}}" if match[1] else r"\sqrt", text)
    return "".join(_digit(character) for character in text)


@lru_cache(maxsize=1024)
def _digit(character: str) -> str:
    """Return a decimal digit of any script as 0 to 9, and a vulgar fraction as a fraction."""
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    if unicodedata.decomposition(character).startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
        return rf"\frac{{{top}}}{{{bottom}}}" if bottom else character
    return character


def _without_stop(text: str) -> str:
    while text and text[-1] in ".,;" and not text.endswith((r"\,", r"\;", "..")):
        text = text[:-1].rstrip()
    return text


def _shifted(digits: str, exponent: str) -> str | None:
    """Return digits times a power of ten without an exponent; None if that is very long."""
    power = int(exponent)
    if abs(power) > _MAX_EXPONENT or len(digits) > _MAX_EXPONENT:
        return None
    sign, numbers, shift = Decimal(digits).as_tuple()
    assert isinstance(shift, int)
    return f"{Decimal((sign, numbers, shift + power)):f}"

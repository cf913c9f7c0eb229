"""Reading a name where a text should give one, with what follows it."""

from __future__ import annotations

import re
from dataclasses import replace

from gradalign.verifiers.reading.options import Name, Options, Reading

_FILLER = re.compile(
    r"(?:\s{1,3}|[:=] ?|- |(?:the |this |an? |my )?(?:correct |right |best |final )?"
    r"(?:(?:option|choice|letter|answer|statement|alternative|selection|opci\u00f3n|option)\b"
    r"(?: is\b)?:? ?|\u9009\u9879 ?|\u9078\u9805 ?)"
    r"|(?:most |very |quite )?(?:probably|likely|definitely|certainly|clearly|simply|indeed|"
    r"therefore|thus|hence|obviously|actually|clear|as follows|labell?ed|given by|that|it's|"
    r"it is|just|simple|straightforward)\b[,:]? ?|the (?=\w))",
    re.IGNORECASE,
)
_DENIAL = re.compile(
    r"(?:not\b|neither\b|either\b|both\b|none\b|between\b|one of\b|any of\b|all of\b|unclear\b|"
    r"unknown\b|uncertain\b|undecid|undetermined\b|indetermin|ambiguous\b|missing\b|"
    r"cannot\b|can't\b|impossible\b|never\b|possibly\b|perhaps\b|maybe\b|n/a\b|"
    r"\u4e0d\u662f|\u975e)",
    re.IGNORECASE,
)
_JOINER = re.compile(
    r"[\"')\]]{0,2}(?:,? ?(?P<doubt>(?:vs\.?|versus)(?= )|but (?:maybe|perhaps|possibly|also)\b) ?"
    r"| ?(?P<sign>[,;/&|+\u2192\u21d2]|[-=]>) ?(?P<word>(?:and|or|nor|plus)\b ?)?"
    r"|[.!]? ?\(?\b(?P<word2>and/or|and|or|nor|as well as|plus)\b ?"
    r"| ?(?P<cjk>[\u548c\u6216\u4e0e\u8207\u53ca]) ?)",
    re.IGNORECASE,
)
_AFTER_LETTER = re.compile(
    r"(?:[ ).:\]\"']|-(?= )){0,4}(?:which is |i\.e\.,? |namely )?[(\"']?|, ?(?:which is )?[(\"']?"
)
_GOES_ON = re.compile(
    r"(?:because|since|as|due|based|given|according|rather|instead|which|not|so|therefore|thus|"
    r"but|it|its|it's|this|that|these|those|here|there|we|i|the|he|she|they|you|with|while|where|when|if|in|"
    r"although|though|however|for|from|by|only)\b|[\u3040-\u9fff\uac00-\ud7a3]",
    re.IGNORECASE,
)
_REASON = re.compile(
    r"(?:because|since|as|due|based|given|according|rather|instead|which|not|so|therefore|"
    r"thus)\b|\(|- ",
    re.IGNORECASE,
)
_IS = re.compile(
    r"[\"')\]]{0,2},? ?(?:which |that |this |it )?"
    r"(?:is|was|isn't|wasn't|cannot|can't|seems|are)\b ?"
)
_IS_RIGHT = re.compile(
    r"(?:therefore |thus |clearly |indeed |definitely |also )?(?:the |my |an? )?"
    r"(?:most |only |final )?"
    r"(?:correct|right|best|true|accurate|appropriate|suitable|answer|supported|consistent)\b",
    re.IGNORECASE,
)
_IS_WRONG = re.compile(
    r"(?:not|wrong|incorrect|false|unlikely|no|never|neither)\b|(?<=n't )|(?<=cannot )",
    re.IGNORECASE,
)
_BESIDE = re.compile(r"[ ,;.!]{1,3}")
_ALONE = re.compile(r" ?(?:[.,;!?\n]|$)")
_ASKED = re.compile(r"[\s\"')\]]{0,4}\?")
_TAKEN_BACK = re.compile(
    r"[\"')\]]{0,2},? ?(?:(?:only )?if\b|unless\b|\( ?(?:wrong|incorrect|not|no|false)\b)",
    re.IGNORECASE,
)
_ALSO = re.compile(
    r"(?<![\w'])[(\[]?([A-Z])[)\]]? (?:could|might|may|can|would also|is also|are also|also)\b"
)
_SENTENCE = re.compile(r"(?:[^.!?\n]|[.!?](?![\s\"')]|$)){0,400}")
_OPEN_END = re.compile(r"\b(?:otherwise|alternatively|possibly|maybe|perhaps|unless|or)\b", re.I)
_LETTER_IN_TEXT = re.compile(r"(?<![\w'])[(\[]?([A-Z])(?:[)\]]|(?![\w'+#-]))")
_NOUN = re.compile(r"(?:the )?(?:options?|choices?|letters?|answers?)\b:? ?|the ", re.IGNORECASE)
_MAX_FILLERS = 6
_MAX_JOINED = 2 * 26


def read(text: str, position: int, options: Options) -> Name | Reading:
    """Return what a text says from a position on: an option if it names just one there.

    Args:
        text: what `plain` returned.
        position: where a name should stand, but for blanks and words such as "option".
        options: the question's options.
    """
    for _ in range(_MAX_FILLERS):
        found = read_name(text, position, options)
        if isinstance(found, Name):
            return _follow(text, found, options)
        if found is Reading.UNDECIDED or _DENIAL.match(text, position):
            return Reading.UNDECIDED
        filler = _FILLER.match(text, position)
        if filler is None:
            break
        position = filler.end()
    return Reading.NOTHING


def read_whole(text: str, options: Options) -> Name | Reading:
    """Return the option that a text names if it says nothing else."""
    text = text.strip()
    found = read(text, 0, options)
    if isinstance(found, Name) and text[found.end :].strip(" .!\"')]}"):
        return Reading.NOTHING
    return found


def read_name(text: str, position: int, options: Options) -> Name | Reading:
    """Return the option whose name begins at a position, whatever goes on behind it."""
    letter = options.by_letter(text, position)
    found = options.by_text(text, position)
    if found is Reading.NOTHING and text[position : position + 1] in ("(", '"', "'", "["):
        found = options.by_text(text, position + 1)
    if letter is not None:
        alone = isinstance(found, Name) and _is_letter(options.texts[found.index])
        if isinstance(found, Reading) or alone:
            capital = options.letters[letter.index] in text[position : letter.end]
            if isinstance(found, Name) and found.index != letter.index and not capital:
                return Reading.UNDECIDED
            return _with_text(text, position, letter, options)
    return found


def _is_letter(text: str) -> bool:
    return len(text) == 1 and text.isascii() and text.isalpha()


def _with_text(text: str, start: int, letter: Name, options: Options) -> Name | Reading:
    """Return a letter's option, checked against the text that stands behind the letter."""
    after = _AFTER_LETTER.match(text, letter.end)
    position = after.end() if after else letter.end
    own = options.by_text(text, position) if position > letter.end else Reading.NOTHING
    if own is Reading.UNDECIDED:
        # Two options have this text: the letter tells which, if it is one of them.
        return letter if letter.marked else Reading.UNDECIDED
    if isinstance(own, Name) and not _is_letter(options.texts[own.index]):
        if own.index == letter.index:
            return replace(letter, end=own.end)
        return (
            Reading.UNDECIDED
            if letter.marked or text[letter.end : letter.end + 1] != ","
            else letter
        )
    written = text[start : letter.end]
    rest = text[letter.end : letter.end + 40]
    if (
        written.endswith(".")
        and rest[:1] == " "
        and rest[1:2].isalpha()
        and options.letters[letter.index] in options.abbreviated
        and rest[1:2].islower()
    ):
        return Reading.UNDECIDED  # "B. cereus" beside the option "B. subtilis"
    if letter.marked:
        return letter
    word = rest[1:] if rest[:1] == " " else ""
    small = options.letters[letter.index] not in written
    if word[:1] and word[:1] in "=<>^+*/~\\%":
        return Reading.NOTHING
    if word[:1].isalnum() and word[:1].isascii():
        joined = _JOINER.match(rest)
        article = options.letters[letter.index] in "AI"
        goes_on = _REASON.match(word) or (_GOES_ON.match(word) and not article and not small)
        if small and article:
            return Reading.NOTHING
        if not (joined or goes_on or _IS.match(rest)):
            return Reading.NOTHING
    return letter


def _follow(text: str, name: Name, options: Options) -> Name | Reading:
    """Return a name unless what follows names another, denies it or shows that it was none."""
    end = name.end
    free = options.truth and not name.letter  # "yes, it is"
    for _ in range(_MAX_JOINED):
        joiner = _JOINER.match(text, end)
        if joiner is None:
            break
        other = _joined(text, joiner.end(), options)
        if other is Reading.UNDECIDED or (isinstance(other, Name) and other.index != name.index):
            return Reading.UNDECIDED
        if isinstance(other, Name):
            end = other.end
            continue
        word = (joiner["word"] or joiner["word2"] or "").strip().lower()
        if word.endswith("or") or joiner["sign"] not in (None, ",", ";"):
            return Reading.UNDECIDED
        if joiner["cjk"] or joiner["doubt"]:
            return Reading.UNDECIDED
        goes_on = _GOES_ON.match(text, joiner.end())
        if joiner["sign"] == "," and joiner.end() >= len(text):
            break
        if (word or joiner["sign"] == ",") and not goes_on and not free:
            return Reading.UNDECIDED
        break
    beside = _BESIDE.match(text, end)
    after = options.by_letter(text, beside.end() if beside else end)
    if after is not None and after.marked and after.index != name.index:
        return Reading.UNDECIDED  # "A) red B) green"
    said = options.by_text(text, beside.end()) if beside else Reading.NOTHING
    if isinstance(said, Name) and said.index != name.index and _ALONE.match(text, said.end):
        return Reading.UNDECIDED  # "Yes. No."
    if _ASKED.match(text, end) or _TAKEN_BACK.match(text, end):
        return Reading.UNDECIDED
    is_word = None if free and text[end : end + 1] == "," else _IS.match(text, end)
    if is_word is not None:
        denied = is_word.group().rstrip().lower().endswith(("n't", "cannot"))
        if denied or _IS_WRONG.match(text, is_word.end()):
            return Reading.DENIED
        other = _joined(text, is_word.end(), options)  # "iron, which is option B"
        if isinstance(other, Name):
            if other.index != name.index:
                return Reading.UNDECIDED
        elif not _IS_RIGHT.match(text, is_word.end()):
            return Reading.NOTHING
    elif not (name.letter and (name.marked or end == name.end)) or not name.letter:
        rest = text[end : end + 40]
        if rest[:1] == " " and rest[1:2].isalnum() and not _REASON.match(rest, 1):
            return Reading.NOTHING
    sentence = _SENTENCE.match(text, end)
    said_on = sentence.group() if sentence else ""
    open_end = _OPEN_END.search(said_on)
    letters = {match.group(1) for match in _ALSO.finditer(said_on)}
    if open_end is not None:
        letters |= {m.group(1) for m in _LETTER_IN_TEXT.finditer(said_on, open_end.end())}
    if letters & set(options.letters) - {options.letters[name.index]}:
        return Reading.UNDECIDED
    return replace(name, end=end)


def _joined(text: str, position: int, options: Options) -> Name | Reading:
    """Return the option named behind "and", "or" or a comma; a capital letter is enough there."""
    found = options.by_text(text, position)
    if found is Reading.NOTHING and (noun := _NOUN.match(text, position)):
        position = noun.end()
        found = options.by_text(text, position)
    if found is not Reading.NOTHING:
        return found
    letter = options.by_letter(text, position)
    if letter is None:
        return Reading.NOTHING
    capital = options.letters[letter.index] in text[position : letter.end]
    if not capital and not letter.marked:
        ends = text[letter.end : letter.end + 1]
        return letter if ends in ("", ",", ".", "\n") else Reading.NOTHING
    with_text = options.by_text(text, letter.end + 1)
    if isinstance(with_text, Name) and with_text.index == letter.index:
        return replace(letter, end=with_text.end)
    return letter

"""Words that announce an answer: the cues of the verifier `choice`.

Every pattern's time is bounded at every place of a text, whatever the text.
"""

from __future__ import annotations

import re

_ADVERB = (
    r"(?:therefore|thus|hence|clearly|definitely|certainly|probably|likely|most likely|simply|"
    r"indeed|obviously|actually|then|also|still|now|in fact|of course),? "
)
_COPULA = r"(?:(?:is|was|would be|must be|should be|has to be|will be|be|remains)\b ?:?|'s\b|[:=])"
_MODAL = r"(?:is|was|would|must|should|could|might|may|can|cannot|isn't|has|will)\b"
_NOUN = r"(?:option|choice|statement|one|response|letter)"
CUE = re.compile(
    r"(?:"
    # the answer (to this question) is
    r"\b(?:answer|ans)\b(?! choices| options)[\"')\]]{0,2}"
    rf"(?: (?!{_MODAL})[\w',\"()-]{{1,20}}+){{0,8}}+ ?,? ?(?:{_ADVERB})?{_COPULA}"
    r"|<answer>|\banswer ?(?:->|=>|\u2192|-(?= ))"
    r"|^(?:the )?(?:final |correct )?answer\b ?\.?\n"
    rf"|\b(?:correct|right|best|final|true|appropriate|suitable) {_NOUN}\b"
    rf"(?: (?:here|among these|of these|to choose))? ?(?:{_ADVERB})?{_COPULA}"
    r"|\bI(?:'d| would| will|'ll)? (?:therefore )?"
    r"(?:choose|pick|select|go with|chose|picked|selected)\b"
    r"|\bI(?:'d| would) say(?= [\"'(]?[A-Z]\b)"
    r"|\bI(?:'m going| am going) with\b"
    r"|\b(?:choose|pick|select) (?=option |choice |answer |\()"
    r"|\bI (?:think|believe|would say|guess)(?: that)?"
    r"(?: it(?:'s| is| would be| must be)| the answer's)\b"
    # Chinese, Japanese and Korean
    r"|(?:答案|正确选项|正確選項)(?:应该|應該|应|就)?"
    r"(?:选择|是|为|為|选|選|:)(?:选项|選項)?[: ]{0,2}"
    r"|(?:故|因此|所以|应|应该)(?:选择|选|選)"
    r"|答: |答え(?:は|:)|정답(?:은|:)"
    r"|\b(?:antwort|respuesta|réponse|resposta|risposta|odpowiedź)\b"
    r"(?: (?:correcta|correcte|correta|corretta))?(?: (?:ist|es|est|é|è)\b)? ?:?"
    r"|\b(?:правильный )?ответ(?: -|:)"
    r")",
    re.IGNORECASE | re.MULTILINE,
)
"""What stands before an answer."""

NO_CUE = re.compile(
    r"(?:\b(?:wrong|incorrect|false|not the|not my|this|that|each|any|such|other|another|"
    r"previous|bad|no|student's|original|whether the|what the|sample|example)"
    r"(?: (?:correct|right|final|best))?|\bif the) $",
    re.IGNORECASE,
)
"""What makes the words behind it no cue: "the wrong answer is"."""

DOUBTED = re.compile(
    r"\b(?:(?:unlikely|not true|not the case|false) that\b|doubt|"
    r"(?:don't|do not|didn't|wouldn't|would not) (?:think|believe|say|agree)|whether|"
    r"(?:some|someone|one|people) (?:\w{1,10} )?"
    r"(?:say|think|argue|claim|believe))\b[^.!?\n,;]*$",
    re.IGNORECASE,
)
"""What, in the sentence before a cue, takes it back: "it is unlikely that the answer is"."""

DOUBTFUL_CUE = re.compile(
    r"\b(?:answer|option|choice)\b"
    r"(?: (?!could|might|may|can|isn't|wasn't)[\w']{1,20}+){0,4}+"
    r" (?:(?:could|might|may|can) (?:also |possibly )?be|cannot be|can't be|isn't|wasn't)\b",
    re.IGNORECASE,
)
"""A cue that decides nothing: "the answer could be"."""

NEXT_QUESTION = re.compile(
    r"^(?:next |new )?(?:question|q)(?: ?\d{1,4})?[:.] ", re.IGNORECASE | re.MULTILINE
)
"""The beginning of a question that a model goes on to ask itself."""

JOINED = re.compile(r"(?:\bor\s{0,2}[\"'(]?|\band\s{0,2}[\"'(]|/\s{0,2}[\"'(]?)$", re.IGNORECASE)
"""What joins a cue to the one before it: write "Answer: yes" or "Answer: no"."""

LEAD = re.compile(
    r"(?:(?:so|thus|therefore|hence|finally|in conclusion|conclusion|final|overall|"
    r"(?:based on|according to|from) (?:the|this) (?:given )?(?:passage|text|information|article)|"
    r"my (?:choice|pick)|because of this|\u9009|\u9078|\u56e0\u6b64)[,:]? ?){1,2}",
    re.IGNORECASE,
)
"""Words before the answer on a last line."""

CALLED_CORRECT = re.compile(
    r",? (?:is|must be|would be|has to be|appears to be) (?:therefore |thus |clearly |indeed )?"
    r"(?:the |my )?(?:most |only |single |one )?"
    r"(?:correct|right|best|accurate|true|appropriate|answer)(?! or| only if|ly|\?)\b",
    re.IGNORECASE,
)
"""What stands behind an option that is called correct."""

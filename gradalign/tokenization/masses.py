"""What a teacher says of the student's tokens at a node, from its own tokens that cover them.

A text that the teacher writes is bytes, and the student's tokenizer cuts them. Let x be the bytes
before a node. Q_j is the teacher's chance that the next token of the student is j, among the texts
that begin with x and have a token of the student's end there. B_j is its chance that a text that
begins with x goes on with the bytes of j: it counts every longer token too. The masses are sums
over sequences of the teacher's tokens from a boundary before the node on, which is given. They are
found best first: a sequence is read, and its next tokens take its place, where what comes after
it may still decide on a token. What was not read is counted in `bound`.

Axes: _C candidates, _V the teacher's vocabulary.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradalign.tokenization.matching import ByteMatching
from gradalign.tokenization.pairs import BytePairs
from gradalign.tokenization.vocabulary import Vocabulary

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

OTHER = -2
"""What a token without text and without a counterpart is to the student."""

LOST = -1
"""The student's next token where it has no token's end at the node."""


@dataclass(frozen=True)
class Masses:
    """What a teacher says of candidates, in probabilities.

    Attributes:
        token_C: the student's tokens, those asked for in their order.
        q_C: Q_j; of what is not decided, as if the text ended there.
        q_bound_C: how far Q_j may be from its value over all sequences from the boundary on.
        tail: Q of all other tokens.
        byte_C: B_j, of what is sure.
        byte_bound_C: how much more B_j may be.
        kept: the share of texts that begin with x in which the student has a token's end there.
        reads: distributions of the teacher that were read.
    """

    token_C: Ints
    q_C: Floats
    q_bound_C: Floats
    tail: float
    byte_C: Floats
    byte_bound_C: Floats
    kept: float
    reads: int


@dataclass(frozen=True)
class Found:
    """A sequence of the teacher's tokens.

    Attributes:
        mass: its probability from the boundary on.
        text: its bytes.
        end: where a token without text ends it, the student's for that, or `OTHER`; else None.
    """

    mass: float
    text: bytes
    end: int | None = None


@dataclass(frozen=True)
class Rest:
    """Tokens after a sequence that were not looked at one by one.

    Attributes:
        mass: of all together.
        text: how they begin. They go on with the candidates of which that is all, and no other.
    """

    mass: float
    text: bytes


class NodeMasses:
    """The sum at one node, which asks for the teacher's distributions that it wants.

    Args:
        student: its tokenizer.
        teacher: its vocabulary.
        before: the student's token before the node, None where there is none.
        begun: the bytes from the boundary to the node.
        candidates: the student's tokens that are asked for.
        ends: per token of the teacher without text, the student's token for the same.
        most: single tokens looked at of each kind after a sequence; None for all.
        worth: least share of a candidate's mass for which a sequence is read.
        settle_bytes: read on where the student's token is sure and B_j is not.
    """

    def __init__(
        self,
        student: BytePairs,
        teacher: Vocabulary,
        *,
        before: int | None,
        begun: bytes,
        candidates: Sequence[int],
        ends: Mapping[int, int],
        most: int | None = 32,
        worth: float = 0.02,
        settle_bytes: bool = False,
    ) -> None:
        self._student, self._teacher, self._ends = student, teacher, ends
        self._before, self._begun = before, begun
        self._most, self._worth, self._settle_bytes = most, worth, settle_bytes
        self._targets = {
            token: begun + piece for token in candidates if (piece := student.pieces[token])
        }
        self._candidates = list(candidates)
        self._sorted = sorted((target, token) for token, target in self._targets.items())
        self._open: dict[tuple[int, ...], Found] = {(): Found(1.0, b"")}
        self._rest: list[Rest] = []
        self._reads = 0

    def wanted(self, most: int) -> list[tuple[int, ...]]:
        """Return sequences after which the teacher's distribution is worth reading.

        Args:
            most: how many at most; none are returned when all that is left is of little worth.
        """
        if () in self._open:
            return [()]
        seen, by_token = self._tally()
        worth = {}
        for sequence, found in self._open.items():
            if found.end is None and self._unsettled(found):
                shares = [
                    found.mass / max(by_token[token], np.finfo(float).tiny)
                    for token in self._may_begin(found)
                ]
                if len(found.text) <= len(self._begun):
                    shares.append(found.mass / max(seen, np.finfo(float).tiny))
                worth[sequence] = max(shares, default=0.0)
        first = sorted(worth, key=lambda sequence: (-worth[sequence], sequence))[:most]
        return [sequence for sequence in first if worth[sequence] > self._worth]

    def _unsettled(self, found: Found) -> bool:
        """Whether what comes behind a sequence decides on anything."""
        if not self._next(found)[1]:
            return True
        begun = (target for target in self._targets.values() if target.startswith(found.text))
        return self._settle_bytes and any(target != found.text for target in begun)

    def _may_begin(self, part: Found | Rest) -> list[int]:
        """Return the candidates that some texts of a part may go on with."""
        text, found = part.text, []
        for end in range(len(self._begun) + 1, len(text) + 1):
            found += self._at(text[:end])
        if isinstance(part, Found) and not _ended(part):
            place = bisect_right(self._sorted, (text, len(self._student.pieces)))
            while place < len(self._sorted) and self._sorted[place][0].startswith(text):
                found.append(self._sorted[place][1])
                place += 1
        return found

    def _at(self, target: bytes) -> list[int]:
        """Return the candidates that are all of a text behind the node."""
        place, found = bisect_left(self._sorted, (target, -1)), []
        while place < len(self._sorted) and self._sorted[place][0] == target:
            found.append(self._sorted[place][1])
            place += 1
        return found

    def _parts(self) -> list[Found | Rest]:
        return [*self._open.values(), *self._rest]

    def _tally(self) -> tuple[float, dict[int, float]]:
        """Return the mass that may begin with x, and that may go on with each candidate."""
        parts = self._parts()
        seen = sum(part.mass for part in parts)
        by_token = dict.fromkeys(self._targets, 0.0)
        for part in parts:
            for token in self._may_begin(part):
                by_token[token] += part.mass
        return seen, by_token

    def _beyond(self, text: bytes) -> bytes:
        """Return the bytes of a text behind the node, none if it does not reach so far."""
        return text[len(self._begun) :]

    def give(self, sequence: tuple[int, ...], log_prob_V: npt.ArrayLike) -> None:
        """Take the teacher's distribution behind a sequence.

        Args:
            sequence: one that was wanted.
            log_prob_V: natural log-probabilities of all its tokens.
        """
        found = self._open.pop(sequence)
        self._reads += 1
        teacher = self._teacher
        prob_V = found.mass * np.exp(np.asarray(log_prob_V, dtype=np.float64))
        prob_V = np.pad(prob_V, (0, max(0, len(teacher.pieces) - len(prob_V))))
        missing = self._begun[len(found.text) :]
        singles = set(teacher.within(missing))
        ranges = {missing: teacher.beginning_with(missing)}
        for target in self._targets.values():
            if target.startswith(found.text) and target != found.text:
                wanted = target[len(found.text) :]
                ranges[wanted] = teacher.beginning_with(wanted)
                singles.update(teacher.within(wanted))
        left = prob_V[teacher.order]  # in the order of the tokens' bytes
        for where in ranges.values():
            singles.update(teacher.order[where][self._largest(left[where])].tolist())
        for token in sorted(singles):
            if prob_V[token] > 0.0:
                text = found.text + (teacher.pieces[token] or b"")
                self._open[*sequence, token] = Found(float(prob_V[token]), text)
        left[np.isin(teacher.order, list(singles))] = 0.0
        for begin in sorted(ranges, key=len, reverse=True):
            mass = float(left[ranges[begin]].sum())
            left[ranges[begin]] = 0.0
            if mass > 0.0:
                self._rest.append(Rest(mass, found.text + begin))
        if not missing:
            self._end(sequence, found.text, prob_V)

    def _largest(self, prob: Floats) -> Ints:
        """Return where the largest of some probabilities are."""
        if self._most is None or len(prob) <= self._most:
            return np.arange(len(prob))
        return np.argpartition(prob, -self._most)[-self._most :]

    def _end(self, sequence: tuple[int, ...], text: bytes, prob_V: Floats) -> None:
        """Add the tokens without text, behind which there is no more of it."""
        for token in self._teacher.silent[prob_V[self._teacher.silent] > 0.0].tolist():
            end = self._ends.get(token, OTHER)
            self._open[*sequence, token] = Found(float(prob_V[token]), text, end)

    def masses(self) -> Masses:
        """Return what is known so far."""
        q, q_open, byte, byte_open = (dict.fromkeys(self._candidates, 0.0) for _ in range(4))
        silent = [candidate for candidate in self._candidates if candidate not in self._targets]
        seen = kept = doubt = unseen = tail = 0.0
        for part in self._parts():
            token, sure, keeps = self._next(part)
            for candidate in self._may_begin(part):
                has = part.text.startswith(self._targets[candidate])
                (byte if has else byte_open)[candidate] += part.mass
                if not sure:
                    q_open[candidate] += part.mass
            if isinstance(part, Found) and not _ended(part) and self._begun.startswith(part.text):
                for candidate in silent:
                    q_open[candidate] += part.mass
            if len(part.text) < len(self._begun):
                unseen += part.mass
                continue
            seen += part.mass
            kept += 0.0 if token == LOST else part.mass
            doubt += 0.0 if keeps else part.mass
            if token in q:
                q[token] += part.mass
            elif token != LOST:
                tail += part.mass
        return self._result((q, q_open, byte, byte_open), seen, kept, doubt, unseen, tail)

    def _next(self, part: Found | Rest) -> tuple[int, bool, bool]:
        """Return the student's next token in a part, and whether it, and its begin, are sure."""
        rest = self._beyond(part.text)
        if not rest:
            if isinstance(part, Found) and part.end is not None:
                return part.end, True, True
            return OTHER, False, self._free
        first = self._student.first(self._before, rest)
        if _ended(part):
            return first.token, True, True
        token = OTHER if isinstance(part, Rest) and not first.sure else first.token
        return token, first.sure, first.kept

    @property
    def _free(self) -> bool:
        """Whether nothing that comes can change the token before the node."""
        return self._before is None or not self._student.pieces[self._before]

    def _result(
        self,
        by_candidate: Sequence[Mapping[int, float]],
        seen: float,
        kept: float,
        doubt: float,
        unseen: float,
        tail: float,
    ) -> Masses:
        """Divide. |N/D - n/d| <= (|N - n| + n/d |D - d|) / D, and D may be less by the doubt."""
        q_C, q_open_C, byte_C, byte_open_C = (
            np.array([values[token] for token in self._candidates], dtype=np.float64)
            for values in by_candidate
        )
        silent_C = np.array([token not in self._targets for token in self._candidates])
        byte_C = np.where(silent_C, q_C, byte_C)
        byte_open_C = np.where(silent_C, q_open_C, byte_open_C)
        with np.errstate(divide="ignore", invalid="ignore"):
            q_C, byte_C = q_C / kept, byte_C / seen
            q_bound_C = (q_open_C + q_C * (doubt + unseen)) / max(kept - doubt, 0.0)
            byte_bound_C = (byte_open_C + byte_C * unseen) / seen
        return Masses(
            token_C=np.array(self._candidates, dtype=np.int64),
            q_C=q_C,
            q_bound_C=np.where(np.isnan(q_bound_C), 1.0, np.minimum(q_bound_C, 1.0)),
            tail=tail / kept if kept else np.nan,
            byte_C=byte_C,
            byte_bound_C=np.where(np.isnan(byte_bound_C), 1.0, np.minimum(byte_bound_C, 1.0)),
            kept=kept / seen if seen else 0.0,
            reads=self._reads,
        )


def _ended(part: Found | Rest) -> bool:
    """Whether a text ends here."""
    return isinstance(part, Found) and part.end is not None


def likely(
    matching: ByteMatching,
    before: int | None,
    begun: bytes,
    log_prob_V: npt.ArrayLike,
    most: int,
) -> list[int]:
    """Return the student's tokens that a teacher's most probable ones begin with behind a node.

    Args:
        matching: both tokenizers.
        before: as of `NodeMasses`.
        begun: as of `NodeMasses`.
        log_prob_V: the teacher's log-probabilities at the boundary.
        most: how many are wanted at most, the most probable first.
    """
    log_prob_V = np.asarray(log_prob_V, dtype=np.float64)
    found: dict[int, None] = {}
    silent = [token for token in matching.ends if token < len(log_prob_V)]
    order = matching.teacher.order[matching.teacher.beginning_with(begun)]
    order = np.concatenate([order, np.array([] if begun else silent, dtype=np.int64)])
    order = order[order < len(log_prob_V)]
    for token in order[np.argsort(-log_prob_V[order], kind="stable")][: 2 * most].tolist():
        if np.isneginf(log_prob_V[token]) or len(found) == most:
            break
        text = (matching.teacher.pieces[token] or b"")[len(begun) :]
        if token in matching.ends:
            found[matching.ends[token]] = None
        elif text and (first := matching.student.first(before, text).token) >= 0:
            found[first] = None
    return list(found)

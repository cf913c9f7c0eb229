"""How many verifications may fail.

A failed verification says nothing of its response: it is missing, and what is left is averaged.
That is without bias where failing does not depend on what the reward would have been, and a small
one where few fail. A verifier that fails mostly is broken: the run stops before more is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gradalign.errors import VerifierError
from gradalign.stages.base import Run
from gradalign.verifiers import Verdict
from gradalign.verifiers.process.pool import failures_in_words

CHANCE = 3.0
"""Standard errors that the share of failures may lie above what is allowed."""

MOSTLY = 0.5
"""However few responses there are, a verifier that fails on so many of them is broken."""


class FailureWatch:
    """Counts a run's verifications and stops it when too many fail.

    Args:
        spec: the verifier, for the message.
        allowed: share that may fail.
        verified, failed: verifications of the run so far, and how many of them failed.
    """

    def __init__(self, spec: str, allowed: float, verified: int = 0, failed: int = 0) -> None:
        self._spec = spec
        self._allowed = allowed
        self._verified = verified
        self._failed = failed

    def add(self, verdicts: Sequence[Verdict], examples: Mapping[str, str]) -> None:
        """Count verdicts.

        Args:
            verdicts: new ones.
            examples: the first failure of each kind, in words.

        Raises:
            VerifierError: too many have failed.
        """
        kinds = [verdict.error_kind for verdict in verdicts if verdict.error_kind is not None]
        self._verified += len(verdicts)
        self._failed += len(kinds)
        if kinds and too_many(self._failed, self._verified, self._allowed):
            counts = [(kind, kinds.count(kind)) for kind in dict.fromkeys(kinds)]
            raise VerifierError(
                f"verifier {self._spec} fails on {self._failed:,} of {self._verified:,} responses; "
                f"of the last, {failures_in_words(counts, dict(examples))}.",
                "Mend the verifier and run the same command again: finished shards are kept. "
                "--max-verifier-failures says what share may fail.",
            )


def too_many(failed: int, verified: int, allowed: float) -> bool:
    """Whether so many failures are more than a share of `allowed` explains by chance.

    Args:
        failed: failed verifications.
        verified: all verifications.
        allowed: share that may fail; with 1 no number is too many.
    """
    if not failed or allowed >= 1.0:
        return False
    expected = allowed * verified
    limit = expected + CHANCE * math.sqrt(expected * (1.0 - allowed))
    return failed > limit or failed >= max(allowed, MOSTLY) * verified


def watch(run: Run) -> FailureWatch:
    """Return a watch that knows of the spines that are verified already."""
    verified = failed = 0
    for shard in run.folder.files("spines"):
        spines = run.folder.read_table("spines", shard)
        cut = spines["finish_reason"].to_pandas().astype(str) == "length"
        verified += int((~cut).sum())
        failed += int((spines["verifier_error"].to_pandas().astype(str) != "").sum())
    return FailureWatch(run.resolved.verifier, run.config.max_verifier_failures, verified, failed)

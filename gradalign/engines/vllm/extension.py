"""What gradalign adds to the workers of vLLM: logits cut to tokens, and checked to be numbers.

vLLM mixes the class into its worker class (`worker_extension_cls`), wherever those run. Both
sampling and log-probabilities are computed from what the model's `compute_logits` returns, which
is where the logits are cut: so they are of one distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class CutLogits:
    """Methods of a vLLM worker, called by name through `collective_rpc`."""

    model_runner: Any

    def gradalign_cut(self, ranges: Sequence[Sequence[int]]) -> None:
        """Leave only the ids of some ranges [begin, end) any mass; no range leaves all ids."""
        import torch

        model = self.model_runner.model
        plain = model.compute_logits
        gaps = _gaps(ranges)
        found: list[tuple[Any, list[str]]] = []
        self.gradalign_found = found

        def compute_logits(*args: Any, **kwargs: Any) -> Any:
            logits = plain(*args, **kwargs)
            if logits is None:  # another rank has them
                return None
            for begin, end in gaps:
                logits[..., begin:end] = -torch.inf
            # The maximum is NaN if any logit is, and infinite without a finite one.
            fine_B = logits.amax(dim=-1).isfinite()
            batch = getattr(self.model_runner, "input_batch", None)
            names = list(getattr(batch, "req_ids", ()))
            found.append((fine_B, names if len(names) == len(fine_B) else []))
            return logits

        model.compute_logits = compute_logits

    def gradalign_broken(self) -> list[str] | None:
        """Return the requests whose logits were no numbers since the last call.

        None if all were; an empty list if some were not, but not whose they are.
        """
        found, broken = list(self.gradalign_found), None
        self.gradalign_found.clear()
        for fine_B, names in found:
            if not bool(fine_B.all()):
                broken = broken or []
                rows = fine_B.logical_not().nonzero()[:, 0].tolist()
                broken += [names[row] for row in rows if names]
        return broken


def _gaps(ranges: Sequence[Sequence[int]]) -> list[tuple[int, int | None]]:
    """Return the ids that are in none of some rising ranges, as ranges; the last has no end."""
    if not ranges:
        return []
    gaps: list[tuple[int, int | None]] = []
    begin = 0
    for first, end in ranges:
        if first > begin:
            gaps.append((begin, first))
        begin = end
    return [*gaps, (begin, None)]

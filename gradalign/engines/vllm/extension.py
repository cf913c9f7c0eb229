"""What gradalign adds to the workers of vLLM: logits cut to tokens, and checked to be numbers.

vLLM mixes the class into its worker class (`worker_extension_cls`), wherever those run. Both
sampling and log-probabilities are computed from what the model's `compute_logits` returns, which
is where the logits are cut: so they are of one distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Check:
    """Whether the logits of one step were numbers.

    A GPU is not waited for: its answer is on the way, and there before the step's tokens are.

    Attributes:
        fine_B: bool [rows], where the logits are.
        all_fine: the same of all rows together, on the host.
        arrived: an event of the GPU, None where there is nothing to wait for.
        names: the requests in these rows, empty if they are not known.
    """

    fine_B: Any
    all_fine: Any
    arrived: Any
    names: list[str]

    @classmethod
    def of(cls, fine_B: Any, names: list[str]) -> Check:
        """Begin with a check."""
        import torch

        if fine_B.device.type != "cuda":
            return cls(fine_B, fine_B.all(), None, names)
        all_fine = torch.empty((), dtype=torch.bool, pin_memory=True)
        all_fine.copy_(fine_B.all(), non_blocking=True)
        arrived: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
        return cls(fine_B, all_fine, arrived, names)

    @property
    def pending(self) -> bool:
        """Whether the answer is still on its way."""
        return self.arrived is not None and not self.arrived.query()

    def broken(self) -> list[str] | None:
        """Return the requests whose logits were no numbers; None if all were."""
        if bool(self.all_fine):
            return None
        rows = self.fine_B.logical_not().nonzero()[:, 0].tolist()
        return [self.names[row] for row in rows if self.names]


class CutLogits:
    """Methods of a vLLM worker, called by name through `collective_rpc`."""

    model_runner: Any

    def gradalign_cut(self, ranges: Sequence[Sequence[int]]) -> None:
        """Leave only the ids of some ranges [begin, end) any mass; no range leaves all ids."""
        import torch

        model = self.model_runner.model
        plain = model.compute_logits
        gaps = _gaps(ranges)
        found: list[Check] = []
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
            found.append(Check.of(fine_B, names if len(names) == len(fine_B) else []))
            return logits

        model.compute_logits = compute_logits

    def gradalign_broken(self) -> list[str] | None:
        """Return the requests whose logits were no numbers, of the steps whose tokens are here.

        None if all were; an empty list if some were not, but not whose they are.
        """
        broken: list[str] | None = None
        later = []
        for check in self.gradalign_found:
            if check.pending:
                later.append(check)
            elif (names := check.broken()) is not None:
                broken = [*(broken or []), *names]
        self.gradalign_found[:] = later
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

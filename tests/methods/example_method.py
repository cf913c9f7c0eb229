"""A user's own method in ten lines, as CONTRIBUTING shows it."""

from dataclasses import dataclass

from gradalign.methods import Ascent, Method, centred, option


@dataclass(frozen=True)
class TruncatedKL(Method):
    """Reverse KL with the log ratio cut off at +-limit."""

    formula = "P_j (f_j - fbar), f_j = clip(r_j, -limit, limit)"
    source = "ours"
    limit: float = option(5.0, "largest log ratio that counts", low=0.0, open_low=True)

    def expected(self, batch):
        at = batch.at(1.0)
        f, tail_f = at.r_NS.clip(-self.limit, self.limit), at.tail_r_N.clip(-self.limit, self.limit)
        return Ascent(centred(at.p_NS, f, at.anchor_N, at.tail_p_N, tail_f), at.unit_N)

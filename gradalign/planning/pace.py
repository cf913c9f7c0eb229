"""How long a model takes: by its tokens, and by the passes that they are read in.

A pass reads all weights once, however few its tokens: on a CPU that is as long as a dozen tokens
take. A product of r rows with a matrix of 4096 x 4096 took 4.1 ms + 0.34 ms r on one core, for r
from 1 to 128 within a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradalign.planning.machine import Machine
from gradalign.planning.memory import ModelMemory

CPU_READ_SHARE = 0.85
CPU_DRAW_SHARES = {"transformers": 0.35, "vllm": 1.4}
"""Parts of the speed of torch's matrix product that reading and drawing tokens reach on a CPU.
Where the product reached 100 GFLOP/s, SmolLM2-135M read 85. With the engine `transformers`, whose
rows have draws and caches of their own, it drew 33 to 61; vLLM, which packs its weights, 136 to
163 (with Qwen2.5-Coder-0.5B too)."""

READ_SHARE, DRAW_SHARE = 0.3, 0.1
"""The same, taken of GPUs."""

PASS_SECONDS = 0.01
"""What Python needs for a pass (30 layers) beside the arithmetic."""

TRIAL_TOKENS, TRIAL_PASSES = 150, 8
"""Short passes that find out how a model may be read, each time it is opened."""


@dataclass(frozen=True)
class Load:
    """Work of one model.

    Attributes:
        tokens: that it computes.
        passes: that it computes them in.
    """

    tokens: float
    passes: float

    def __add__(self, other: Load) -> Load:
        return Load(self.tokens + other.tokens, self.passes + other.passes)


TRIALS = Load(TRIAL_TOKENS, TRIAL_PASSES)


@dataclass(frozen=True)
class Pace:
    """Seconds of one model.

    Attributes:
        token_seconds: for every token.
        pass_seconds: for every pass, beside its tokens.
    """

    token_seconds: float
    pass_seconds: float

    def seconds(self, load: Load) -> float:
        """Return how long some work takes."""
        return self.token_seconds * load.tokens + self.pass_seconds * load.passes

    def measured(self, load: Load, seconds: float) -> Pace:
        """Return the pace at which some work took so long, tokens and passes in proportion."""
        factor = max(seconds, 1e-6) / self.seconds(load)
        return Pace(factor * self.token_seconds, factor * self.pass_seconds)


UNSIZED = Pace(1.0, 12.0)
"""Proportions of a model of unknown size."""


def reading_pace(model: ModelMemory, device: str, machine: Machine) -> Pace | None:
    """Assume how quickly a model is read teacher-forced; None if its size is unknown."""
    return _pace(model, CPU_READ_SHARE if device == "cpu" else READ_SHARE, machine)


def drawing_pace(model: ModelMemory, device: str, engine: str, machine: Machine) -> Pace | None:
    """Assume how quickly an engine draws tokens, a pass for each token of the longest row."""
    on_cpu = CPU_DRAW_SHARES.get(engine, CPU_DRAW_SHARES["vllm"])
    return _pace(model, on_cpu if device == "cpu" else DRAW_SHARE, machine)


def _pace(model: ModelMemory, share: float, machine: Machine) -> Pace | None:
    if not model.parameters or not model.weight_bytes:
        return None
    return Pace(
        token_seconds=2.0 * model.parameters / (share * machine.flops),
        pass_seconds=model.weight_bytes / machine.bytes_per_second
        + PASS_SECONDS * machine.crowding,
    )

"""Seconds until a stage can begin: libraries, weights, and an engine's process."""

from __future__ import annotations

from gradalign.order import stages, student_samplers
from gradalign.planning.machine import Machine
from gradalign.planning.memory import Memory
from gradalign.stages.base import Run

OPEN_SECONDS = 0.4
READ_BYTES_PER_SECOND = 1e9
"""Opening a model: a constant, and its weights from a disk."""

FIRST_SECONDS = 2.3
"""What the first model of a process imports."""

START_SECONDS = {"vllm": 9.0, "server": 1.0}
"""What an engine's process does before it reads weights, beyond what is done ahead: vLLM 0.32
imports for 7 s and sets itself up for 5 s to 8 s of a core."""


def assumed_openings(run: Run, memory: Memory, machine: Machine) -> dict[str, float]:
    """Return the seconds that each stage with a model needs until it can begin, by its name."""
    weights = {model.name: model.weight_bytes or 0 for model in memory.models}
    samplers = {stage.name for stage in student_samplers(run)}
    engine, first = run.resolved.engine, FIRST_SECONDS
    found = {}
    for stage in stages(run):
        if stage.kind == "analysis":
            continue
        name = getattr(stage, "model", None) or run.config.student
        work = OPEN_SECONDS
        if stage.name in samplers and engine in START_SECONDS:
            work = START_SECONDS[engine]
        else:
            work, first = work + first, 0.0
        read = 0 if stage.name in samplers and engine == "server" else weights.get(name, 0)
        found[stage.name] = machine.crowding * work + read / READ_BYTES_PER_SECOND
    return found

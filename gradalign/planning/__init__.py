"""The cost of a run before it is spent, and beside it what was spent."""

from gradalign.planning.engine import EngineStarts, prospect
from gradalign.planning.figures import Figures, Times
from gradalign.planning.likely import Likely
from gradalign.planning.memory import Memory, ModelMemory
from gradalign.planning.plan import Plan, make_plan
from gradalign.planning.record import record_actual, record_plan
from gradalign.planning.times import expected

__all__ = [
    "EngineStarts",
    "Figures",
    "Likely",
    "Memory",
    "ModelMemory",
    "Plan",
    "Times",
    "expected",
    "make_plan",
    "prospect",
    "record_actual",
    "record_plan",
]

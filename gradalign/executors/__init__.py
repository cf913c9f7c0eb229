"""Where the shards of a stage are done: in this process, or by the workers of a Ray cluster."""

from gradalign.executors.base import Executor
from gradalign.executors.opening import open_executor

__all__ = ["Executor", "open_executor"]

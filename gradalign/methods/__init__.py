"""Which way each distillation recipe pushes the student's logits, exactly.

`get("gkd:beta=0.5").ascent(batch)` is the ascent direction at every node of a `NodeBatch`.
"""

from __future__ import annotations

from gradalign.methods import controls, dr_grpo, gkd, minillm, opd  # noqa: F401  (they register)
from gradalign.methods.base import Ascent, Direction, Method, OptionInfo, option
from gradalign.methods.batch import Continuations, NodeBatch, SpineView
from gradalign.methods.distributions import Distributions
from gradalign.methods.identities import centred, pulled, restrict
from gradalign.methods.mixture import BestMixture, Mixture
from gradalign.methods.registry import get, method_class, names, register, spelled_out
from gradalign.methods.sampled import Draws, SampledToken, scaled
from gradalign.methods.trainers import (  # noqa: F401  (they register)
    lmops,
    miles,
    nemo,
    roll,
    swift,
    thunlp,
    tinker,
    torchrl,
    trl,
    trl_async_distillation,
    trl_server_distillation,
    verl,
)

__all__ = [
    "Ascent",
    "BestMixture",
    "Continuations",
    "Direction",
    "Distributions",
    "Draws",
    "Method",
    "Mixture",
    "NodeBatch",
    "OptionInfo",
    "SampledToken",
    "SpineView",
    "centred",
    "get",
    "method_class",
    "names",
    "option",
    "pulled",
    "register",
    "restrict",
    "scaled",
    "spelled_out",
]

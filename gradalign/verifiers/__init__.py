"""Verifiers: a response and its question to a reward in [0, 1].

`get` makes one from its spec; `VerifierPool` runs one in processes with a hard time limit.
"""

from __future__ import annotations

from gradalign.verifiers import (  # noqa: F401  (they register)
    choice,
    demo,
    exact,
    mathematics,
    reasoning_gym,
    regex,
)
from gradalign.verifiers.base import FunctionVerifier, Scored, Verifier, VerifierFactory
from gradalign.verifiers.judge import Verdict
from gradalign.verifiers.process.pool import VerifierPool
from gradalign.verifiers.registry import VERIFIERS, get, get_checked

__all__ = [
    "VERIFIERS",
    "FunctionVerifier",
    "Scored",
    "Verdict",
    "Verifier",
    "VerifierFactory",
    "VerifierPool",
    "get",
    "get_checked",
]

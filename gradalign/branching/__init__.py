"""Targeted rollouts: which tokens are forced where, how often, and what that says about V.

Arrays only: no models, engines or files. `QuestionBranching` is what a driver needs.
"""

from gradalign.branching.allocation import (
    Allocation,
    BranchRequest,
    QuestionBranching,
)
from gradalign.branching.candidates import Candidates, choose_candidates
from gradalign.branching.estimates import NodeEstimates, NodePlan
from gradalign.branching.nodes import NodeSampler, choose_nodes
from gradalign.branching.tree import PrefixTree
from gradalign.branching.visits import Passes, Stored

__all__ = [
    "Allocation",
    "BranchRequest",
    "Candidates",
    "NodeEstimates",
    "NodePlan",
    "NodeSampler",
    "Passes",
    "PrefixTree",
    "QuestionBranching",
    "Stored",
    "choose_candidates",
    "choose_nodes",
]

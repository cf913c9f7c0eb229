"""A seed for every rollout, by what identifies it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


def derive_seed(run_seed: int, question_id: str, prefix_ids: Sequence[int], index: int) -> int:
    """Turn what identifies a rollout into a 63-bit seed; the same rollout always gets the same.

    `prefix_ids` is the prompt, the spine's tokens and the forced candidate; they are hashed.
    Rollouts of one prefix have seeds in a row, as a server gives to the samples of one request.
    """
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{run_seed}\x00{question_id}\x00".encode())
    digest.update(np.asarray(prefix_ids, dtype="<i4").tobytes())
    return nth_seed(int.from_bytes(digest.digest(), "little") >> 1, index)


def nth_seed(first_seed: int, index: int) -> int:
    """Return the seed of a prefix's rollout `index` from that of its first."""
    return (first_seed + index) % 2**63

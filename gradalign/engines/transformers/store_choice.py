"""Finding out, by trying, which kind of cache a model can be driven with."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import torch

from gradalign.engines.transformers.kv_cache import KeyValueStore, SlicedStore
from gradalign.engines.transformers.kv_uniform import RecomputingStore, UniformStore
from gradalign.engines.transformers.model_call import Ints, ModelCall
from gradalign.models.forward import Sharing, sharing_of

logger = logging.getLogger(__name__)

# Layer types that keep one key and one value per token, in this order, for ever.
_COLUMN_LAYERS = {"full_attention", "sliding_attention"}

# Largest allowed difference of logits, in units of their spread over the vocabulary.
_TOLERANCE = {torch.float64: 1e-4, torch.float32: 2e-3, torch.float16: 0.05, torch.bfloat16: 0.2}

# Steps that each kind of cache is tried for.
_STEPS = 3


def choose_store(call: ModelCall) -> KeyValueStore:
    """Return an empty store of the fastest kind that gives the model's own logits.

    Each kind is tried on a few short sequences of unlike lengths and compared with passes that
    use neither padding nor a cache, so that a model that pads or caches in its own way is found
    out instead of being listed by name.

    Raises:
        ModelError: the model is not causal, or cannot be read at all.
    """
    sharing = sharing_of(call.model)
    bytes_per_cell = _bytes_per_cell(call)
    kinds: list[tuple[str, Callable[[], KeyValueStore]]] = []
    if set(getattr(call.config, "layer_types", None) or ()) <= _COLUMN_LAYERS:
        kinds.append(("sliced cache", lambda: SlicedStore(call, bytes_per_cell)))
    kinds.append(("uniform cache", lambda: UniformStore(call, bytes_per_cell)))
    name = type(call.model).__name__
    for kind, make in kinds:
        try:
            error = _disagreement(call, make())
        except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as failure:
            logger.debug("%s does not suit %s: %r", kind, name, failure)
            continue
        logger.debug("%s for %s: logits are off by %.1e", kind, name, error)
        if error <= _TOLERANCE.get(_dtype(call), 0.2):
            return make()
    return RecomputingStore(call, apart=sharing is Sharing.NONE)


def _dtype(call: ModelCall) -> torch.dtype:
    return next(call.model.parameters()).dtype


def _disagreement(call: ModelCall, store: KeyValueStore) -> float:
    """Return the largest difference of logits over a few steps, in units of their spread."""
    rng = np.random.default_rng(0)
    lengths = (9, 5, 5, 1, 0) if store.joins_running else (7, 7)
    sequences = [rng.integers(0, call.vocab_size, length + _STEPS) for length in lengths]
    prefixes = [
        tuple(map(int, ids[:length])) for ids, length in zip(sequences, lengths, strict=True)
    ]
    truths = [_plain(call, ids) for ids in sequences]
    store.relayout(np.zeros(0, dtype=np.int64), prefixes)
    rows = list(range(len(lengths)))
    worst = 0.0
    for step in range(_STEPS):
        if step == _STEPS - 1:  # the first row has finished
            store.relayout(np.arange(1, len(rows)), [])
            rows = rows[1:]
        token_B = np.array([sequences[row][lengths[row] + step] for row in rows])
        logits_BV = store.step(token_B).double()
        for row, logits_V in zip(rows, logits_BV, strict=True):
            truth_V = truths[row][step]
            spread = float(truth_V.std()) or 1.0
            gap = float((logits_V - truth_V).abs().max()) / spread
            worst = max(worst, gap if gap == gap else np.inf)
    return worst


def _plain(call: ModelCall, ids: Ints) -> torch.Tensor:
    """Return the logits of the last steps of one sequence, from one pass over it, [steps, V]."""
    position_1T = np.arange(len(ids))[None, :]
    ones_1T = np.ones((1, len(ids)), np.int64)
    return call(ids[None, :], ones_1T, position_1T, None, keep=_STEPS)[0].double()


def _bytes_per_cell(call: ModelCall) -> int:
    """Return the bytes of one token's keys and values over all layers, from the configuration."""
    config = call.config
    heads = getattr(config, "num_attention_heads", None) or 1
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    item = torch.empty(0, dtype=_dtype(call)).element_size()
    return int(2 * config.num_hidden_layers * kv_heads * size * item)

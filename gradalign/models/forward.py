"""Whole rows through a causal language model, and trials of which rows may share a pass.

Axes: _B rows, _P columns, _T tokens, _V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from gradalign.errors import ModelError
from gradalign.runtime import model_pass

if TYPE_CHECKING:
    import torch

TokenRow = Sequence[int] | npt.NDArray[np.integer[Any]]

# Largest allowed difference of logits, root mean square over the vocabulary in units of their
# spread. One expert that rounding chose otherwise must not count as a fault of padding.
_TOLERANCE = {"float64": 1e-4, "float32": 2e-3, "float16": 0.05}
_COARSE = 0.2

# Tokens of the longest trial sequence: windows up to this length are reached past.
_TRIAL_TOKENS = {"cpu": 160}
_TRIAL_TOKENS_ON_DEVICE = 1100

# Tokens that are compared at the end of a trial sequence.
_COMPARED = 8

# Tokens behind the position that is compared with and without them.
_LATER = 3

# Names under which configurations keep how far a layer looks, or in what pieces it works.
_SPANS = (
    "sliding_window",
    "attention_window_size",
    "window_size",
    "attention_chunk_size",
    "mamba_chunk_size",
    "chunk_size",
    "block_size",
)


class Sharing(Enum):
    """Which rows give the same numbers in one pass as each alone."""

    PADDED = "rows of any lengths, padded on the left"
    EQUAL = "rows of one length"
    NONE = "one row at a time"


def taken_arguments(model: torch.nn.Module, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return those arguments that a model's forward has a name for, or all of a mere wrapper's."""
    names = inspect.signature(model.forward).parameters
    if "input_ids" not in names:
        return arguments
    return {name: value for name, value in arguments.items() if name in names}


def last_logits(model: torch.nn.Module, rows: Sequence[TokenRow], keep: int) -> torch.Tensor:
    """Run one left-padded batch without a cache; return the logits of its last columns.

    Args:
        model: a causal language model; it is given what its forward takes.
        rows: token ids, at least one row. Rows end together.
        keep: number of columns, at most the longest row's.

    Returns:
        Logits [B, keep, V] in the model's dtype.
    """
    import torch

    device = next(model.parameters()).device
    width = max(len(row) for row in rows)
    ids_BP = np.zeros((len(rows), width), dtype=np.int64)
    mask_BP = np.zeros((len(rows), width), dtype=np.int64)
    for number, row in enumerate(rows):
        ids_BP[number, width - len(row) :] = row
        mask_BP[number, width - len(row) :] = 1
    mask = torch.from_numpy(mask_BP).to(device)
    wanted = {
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0),
        "logits_to_keep": keep,
        "use_cache": False,
    }
    with torch.no_grad(), model_pass(device):
        logits: torch.Tensor = model(
            input_ids=torch.from_numpy(ids_BP).to(device),
            **taken_arguments(model, wanted),
        ).logits
    return logits[:, -keep:]


@contextmanager
def output_layer_inputs(model: torch.nn.Module, *, on: bool = True) -> Iterator[list[torch.Tensor]]:
    """Collect what a model's output layer is given in the block's passes, [B, P, D] each.

    Args:
        model: a causal language model.
        on: whether to; else the list stays empty.
    """
    caught: list[torch.Tensor] = []
    if not on:
        yield caught
        return
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    try:
        yield caught
    finally:
        hook.remove()


_known_sharing: WeakKeyDictionary[torch.nn.Module, Sharing] = WeakKeyDictionary()


def sharing_of(model: torch.nn.Module) -> Sharing:
    """Find out by a few short passes which rows may share one; once per loaded model.

    Recurrent layers may read padding, and experts of bounded capacity may turn a token away
    because of others: such models are found out by their numbers instead of being listed by name.

    Raises:
        ModelError: the model cannot be read at all, has other logits each time, or lets a
            position see the tokens after it, so that a forced token would be read in advance.
    """
    found = _known_sharing.get(model)
    if found is None:
        found = _known_sharing[model] = _try_sharing(model)
    return found


def _try_sharing(model: torch.nn.Module) -> Sharing:
    length = trial_length(model)
    long, short, other = trial_rows(model, (length, min(5, length), length))
    begun = long[:-_LATER]
    alone = [_alone(model, row) for row in (long, short, begun)]
    _check_repeatable(model, long, alone[0])
    _check_causal(model, alone[0], alone[2])
    limit = tolerance(model)
    if _together(model, [long, short, begun], alone) <= limit:
        return Sharing.PADDED
    if _together(model, [long, other], [alone[0], _alone(model, other)]) <= limit:
        return Sharing.EQUAL
    return Sharing.NONE


def _alone(model: torch.nn.Module, row: Sequence[int]) -> torch.Tensor:
    """Return the last logits of one row, [T, V].

    Raises:
        ModelError: the pass fails.
    """
    import torch

    try:
        return last_logits(model, [row], min(_COMPARED, len(row)))[0].double()
    except torch.OutOfMemoryError:
        raise
    except TRIAL_FAILURES as error:
        raise ModelError(
            f"{describe(model)} cannot be read: its forward pass fails with "
            f"{type(error).__name__}: {error}.",
            "Use a causal language model of transformers.",
        ) from error


def _together(
    model: torch.nn.Module, rows: Sequence[Sequence[int]], alone: Sequence[torch.Tensor]
) -> float:
    """Return the largest gap between rows in one pass and each alone; infinite if it fails."""
    import torch

    try:
        widest = max(len(row) for row in rows)
        logits_BPV = last_logits(model, rows, min(_COMPARED, widest)).double()
    except torch.OutOfMemoryError:
        raise
    except TRIAL_FAILURES:
        return float("inf")
    return max(
        logit_gap(truth_TV, found_PV[-len(truth_TV) :])
        for truth_TV, found_PV in zip(alone, logits_BPV, strict=True)
    )


def _check_repeatable(model: torch.nn.Module, row: Sequence[int], alone_TV: torch.Tensor) -> None:
    if logit_gap(alone_TV, _alone(model, row)) > tolerance(model):
        raise ModelError(
            f"{describe(model)} gives other logits for the same tokens each time.",
            "Switch off what is random in its forward pass.",
        )


def _check_causal(model: torch.nn.Module, long_TV: torch.Tensor, begun_TV: torch.Tensor) -> None:
    """Compare the same positions with and without the tokens after them."""
    before_TV = long_TV[:-_LATER]
    if logit_gap(begun_TV[-len(before_TV) :], before_TV) > tolerance(model):
        raise ModelError(
            f"{describe(model)} is not causal: what it says at a position changes with the tokens "
            "after it.",
            "Use a causal language model; an encoder needs is_decoder=true in its config.json.",
        )


TRIAL_FAILURES = (
    RuntimeError,
    TypeError,
    ValueError,
    AttributeError,
    LookupError,
    NotImplementedError,
    AssertionError,
)
"""What models raise that cannot be called in some way."""


def describe(model: torch.nn.Module) -> str:
    """Return what a message calls a loaded model."""
    config: Any = getattr(model, "config", None)
    name = getattr(config, "name_or_path", "") or getattr(config, "_name_or_path", "")
    return f"model {name} ({type(model).__name__})" if name else f"a {type(model).__name__}"


def tolerance(model: torch.nn.Module) -> float:
    """Return the largest gap of logits that rounding may make; see `logit_gap`."""
    dtype = next(model.parameters()).dtype
    return _TOLERANCE.get(str(dtype).removeprefix("torch."), _COARSE)


def logit_gap(truth_TV: torch.Tensor, found_TV: torch.Tensor) -> float:
    """Return the largest difference over positions, root mean square, in units of the spread.

    Logits that are no numbers in `truth_TV` are not compared: they are no fault of the batch.
    """
    import torch

    known_TV = torch.isfinite(truth_TV)
    count_T = known_TV.sum(-1).clamp(min=1)
    truth_TV = truth_TV.where(known_TV, 0.0)
    mean_T = truth_TV.sum(-1) / count_T
    spread_TV = (truth_TV - mean_T[:, None]).where(known_TV, 0.0)
    spread_T = (spread_TV.square().sum(-1) / count_T).sqrt()
    gap_T = ((found_TV - truth_TV).where(known_TV, 0.0).square().sum(-1) / count_T).sqrt()
    gap = float((gap_T / spread_T.where(spread_T > 0, 1.0)).max())
    return gap if gap == gap else float("inf")


def trial_length(model: torch.nn.Module) -> int:
    """Return a length in tokens that reaches past a model's windows, where that is cheap."""
    from gradalign.models.checkpoints.loading import context_length

    text = _text_config(model)
    device = next(model.parameters()).device.type
    most = _TRIAL_TOKENS.get(device, _TRIAL_TOKENS_ON_DEVICE)
    spans = [getattr(text, name, None) for name in _SPANS]
    reached = [span for span in spans if isinstance(span, int) and 0 < span <= most]
    length = max(reached, default=0) + 20
    return max(_LATER + 1, min(length, context_length(text) or length))


def trial_rows(model: torch.nn.Module, lengths: Sequence[int]) -> list[list[int]]:
    """Draw rows of token ids that a model has, leaving out those that mean something to it."""
    text = _text_config(model)
    find_table: Any = getattr(model, "get_input_embeddings", None)  # a mere wrapper has none
    table = find_table() if find_table is not None else None
    vocab = min(int(text.vocab_size), int(getattr(table, "num_embeddings", text.vocab_size)))
    special = set()
    for config in (model.config, text):
        for name in dir(config):
            if name.endswith(("token_id", "token_index")):
                special.update(np.atleast_1d(getattr(config, name, None) or ()).tolist())
    rng = np.random.default_rng(0)
    drawn = [token for token in rng.permutation(vocab)[:512].tolist() if token not in special]
    return [rng.choice(drawn or [0], length).tolist() for length in lengths]


def _text_config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True)

"""What the student's output layer reads at every node: the pass that update level adds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from gradalign.models.distributions import ForcedSequence, forced_log_probs
from gradalign.models.forward import sharing_of
from gradalign.models.numbers import check_logits, naming
from gradalign.models.output_layer import logit_slopes
from gradalign.stages.base import Run, StageKind, Tick, Work
from gradalign.stages.distributions import student_sequences
from gradalign.stages.teachers import open_student_model
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StudentHidden:
    """A pass of the student that keeps its last hidden state at every node."""

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "distribute hidden states"
    unit: ClassVar[str] = "spines"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's hidden states are there."""
        return run.folder.has_table("hidden", shard)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student."""
        with open_student_model(run) as model:
            yield lambda shard, tick: _hidden_shard(run, model, shard, tick)


def _hidden_shard(run: Run, model: torch.nn.Module, shard: str, tick: Tick) -> Counter[str]:
    nodes = run.folder.read_table("nodes", shard)
    rows_of: dict[str, list[int]] = {}
    for row, spine_id in enumerate(nodes["spine_id"].to_pylist()):
        rows_of.setdefault(str(spine_id), []).append(row)
    position_N = nodes["position"].to_numpy().astype(np.int64)
    spines, sequences = student_sequences(run, shard)
    hidden_N: list[npt.NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(position_N)
    read = output_layer_inputs(model, sequences, batch_tokens=run.config.batch_tokens)
    with naming(f"student {run.config.student}", lambda i: spines[i].question_id):
        for done, (i, hidden_LD) in enumerate(read, start=1):
            for row in rows_of.get(spines[i].spine_id, []):
                hidden_N[row] = hidden_LD[position_N[row]]
            tick(done, len(sequences), 1)
    candidates = _candidates(run, shard, nodes["node_id"].to_pylist())
    slopes_N: list[npt.NDArray[np.float64]] = []
    if candidates:
        width = max(len(tokens) for tokens in candidates)
        token_NC = np.full((len(candidates), width), -1, dtype=np.int64)
        for row, tokens in enumerate(candidates):
            token_NC[row, : len(tokens)] = tokens
        slope_NC = logit_slopes(model, np.stack(hidden_N), token_NC)
        slopes_N = [
            slope_C[: len(tokens)] for slope_C, tokens in zip(slope_NC, candidates, strict=True)
        ]
    rows = Rows("hidden")
    rows.add(
        len(position_N),
        question_id=nodes["question_id"],
        node_id=nodes["node_id"],
        hidden=hidden_N,
        slopes=slopes_N,
    )
    run.folder.write_table("hidden", shard, rows.table_of())
    return Counter(student_passes=len(sequences))


def _candidates(run: Run, shard: str, node_ids: list[str]) -> list[list[int]]:
    """Return each node's candidates in order of the table `branches`."""
    branches = run.folder.read_table("branches", shard)
    found: dict[str, list[int]] = {str(node): [] for node in node_ids}
    for node, token in zip(
        branches["node_id"].to_pylist(), branches["token_id"].to_pylist(), strict=True
    ):
        found[str(node)].append(token)
    return list(found.values())


def output_layer_inputs(
    model: torch.nn.Module, sequences: Sequence[ForcedSequence], *, batch_tokens: int = 16384
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (index, what the output layer reads where each response token is predicted, [L, D]).

    Args:
        model: a causal language model.
        sequences: prompts with the responses to force; empty responses are left out.
        batch_tokens: padded tokens per forward pass at most.

    Raises:
        ContextOverflowError: a sequence is longer than the model's context.
        EngineError: a token id that the model does not have.
    """
    if any(len(sequence.response_ids) for sequence in sequences):
        sharing_of(model)  # its trial passes come before the hook
    caught: list[torch.Tensor] = []
    layer: Any = model.get_output_embeddings()  # type: ignore[operator]
    hook = layer.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    row = 0
    try:
        for i, _ in forced_log_probs(model, sequences, batch_tokens=batch_tokens):
            if len(caught) > 1:  # the batch before this one
                del caught[0]
                row = 0
            length = len(sequences[i].response_ids)
            hidden_LD = caught[0][row, -length - 1 : -1].float()
            check_logits(hidden_LD, i)  # a cap makes numbers of infinite ones
            yield i, hidden_LD.cpu().numpy()
            row += 1
    finally:
        hook.remove()

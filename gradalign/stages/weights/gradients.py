"""Where the ideal gradient moves the student's weights: the sum over all questions of a run.

A question's ideal update is G_q, the mean over its responses of sum_u w_u J_u^T g_u: g_u is the
ideal direction at node u, J_u the derivative of the node's logits by the weights, w_u one over the
inclusion probability. This stage adds these up; `gradalign.stages.weights.derivatives` takes one
question off the sum again and differentiates its logits along the rest.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gradalign.config import ScoreConfig
from gradalign.errors import UsageError
from gradalign.models import load_config, loaded_model
from gradalign.models.activations import checkpoints, kept_bytes_per_token
from gradalign.models.derivatives import Way
from gradalign.models.distributions import ForcedSequence
from gradalign.models.event_space import only
from gradalign.models.gradients import ForcedResponses, LogitGradients, Push
from gradalign.models.weight_space import parameter_shapes, parse_space, weight_space
from gradalign.runtime import available_bytes
from gradalign.stages.base import Run, StageKind, Tick, Work, teacher_file
from gradalign.store.shard import StoredSpine, read_questions, read_shard
from gradalign.store.table_builder import Rows

if TYPE_CHECKING:
    import torch

IDEAL = "ideal"
"""The method under which the ideal direction's gradients are filed, with no teacher."""

NO_TEACHER = ""

LARGE = 4_000_000_000
"""Parameters up to which gradients are taken in float32."""

GRADIENT_VECTORS = 4
"""Vectors as long as the space that are held at once: a sum of updates, a gradient, the direction
that both make, and the weights moved along it."""

GROUPS = 4
"""Groups of shards that sums are kept of: each is as large as the space."""


@contextmanager
def open_space(run: Run) -> Iterator[tuple[torch.nn.Module, list[torch.nn.Parameter]]]:
    """Hold the student with the weights that gradients are taken of.

    It is in float32, and in bfloat16 where it has more than `LARGE` parameters. Layers keep what
    goes into them only, where a question's passes would take more than half of the free memory.
    """
    options = {**run.model_options(run.config.student), "dtype": gradient_dtype(run.config)}
    spec = parse_space(run.config.weights_space)
    with (
        loaded_model(run.config.student, **options) as model,
        only(model, run.tokens),
        weight_space(model, spec) as parameters,
    ):
        kept = kept_bytes_per_token(model) * _tokens_at_once(run)
        free = available_bytes(str(parameters[0].device))
        free -= GRADIENT_VECTORS * sum(4 * parameter.numel() for parameter in parameters)
        with checkpoints(model, on=kept > free / 2):
            yield model, parameters


def gradient_dtype(config: ScoreConfig) -> str:
    """Return what the student is in while gradients are taken."""
    return "bfloat16" if (num_parameters(config) or 0) > LARGE else "float32"


def derivative_way(config: ScoreConfig) -> Way:
    """Return how derivatives of logits are taken; differences are lost in bfloat16's rounding.

    Raises:
        UsageError: differences are asked for and the student is too large for float32.
    """
    if config.weights_derivative == "forward":
        return "forward"
    if gradient_dtype(config) == "float32":
        return "differences"
    if config.weights_derivative == "auto":
        return "forward"
    raise UsageError(
        f"--weights-derivative differences: a student of over {LARGE:.0e} parameters is read in "
        "bfloat16, whose rounding hides differences.",
        "Use --weights-derivative forward.",
    )


def num_parameters(config: ScoreConfig) -> int | None:
    """Count the student's parameters; None where its configuration does not tell."""
    settings = load_config(
        config.student, revision=config.revision, trust_remote_code=config.trust_remote_code
    )
    shapes = parameter_shapes(settings, trust_remote_code=config.trust_remote_code)
    return None if shapes is None else sum(map(math.prod, shapes.values()))


def _tokens_at_once(run: Run) -> int:
    """Return how many tokens the passes of one question keep, at most."""
    longest = 1
    for shard in run.shards():
        spines = run.folder.read_table("spines", shard, ["num_tokens"])["num_tokens"].to_numpy()
        prompts = (len(item.prompt_ids) for item in read_questions(run.folder, shard))
        longest = max(longest, int(spines.max(initial=0)) + max(prompts, default=0))
    return min(run.config.num_rollouts * longest, max(run.config.batch_tokens, longest))


def responses_of(
    run: Run, model: torch.nn.Module, spines: Sequence[StoredSpine], places: NodePlaces
) -> ForcedResponses:
    """Return responses to one question with their nodes, for passes."""
    return ForcedResponses(
        model,
        [ForcedSequence(spine.prompt_ids, spine.token_ids) for spine in spines],
        [[places.position[node] for node in places.nodes_of(spine)] for spine in spines],
        batch_tokens=run.config.batch_tokens,
    )


class NodePlaces:
    """A shard's nodes: where they are, what they weigh, and their ideal directions.

    Args:
        run: the run.
        shard: name of the shard.

    Attributes:
        position: of each node in its response.
        weight: of each node, 1 over its inclusion probability; 0 where it is left out.
        relative: of each node, 0 at the first token of the response and 1 at the last.
        candidates: each node's candidates in order of the table `branches`.
        ideal: the ideal direction at these.
    """

    def __init__(self, run: Run, shard: str) -> None:
        nodes = run.folder.read_table("nodes", shard)
        self.position: dict[str, int] = {}
        self.weight: dict[str, float] = {}
        self.relative: dict[str, float] = {}
        self._nodes_of: dict[str, list[str]] = {}
        names = ("node_id", "spine_id", "position", "relative_position", "inclusion_prob")
        for node, spine, position, relative, inclusion, special in zip(
            *(nodes[name].to_pylist() for name in (*names, "special")), strict=True
        ):
            left_out = run.config.mask_special and special
            self.position[node] = position
            self.weight[node] = 0.0 if left_out else 1.0 / inclusion
            self.relative[node] = relative
            self._nodes_of.setdefault(spine, []).append(node)
        branches = run.folder.read_table("branches", shard)
        self.candidates: dict[str, list[int]] = {node: [] for node in self.position}
        known: dict[str, list[float]] = {node: [] for node in self.position}
        mass: Counter[str] = Counter()
        columns = ("node_id", "token_id", "student_prob", "ideal")
        for node, token, prob, value in zip(
            *(branches[name].to_pylist() for name in columns), strict=True
        ):
            self.candidates[node].append(token)
            known[node].append(math.nan if value is None else value)
            mass[node] += prob
        self.ideal = {node: mass[node] * np.array(values) for node, values in known.items()}

    def nodes_of(self, spine: StoredSpine) -> list[str]:
        """Return a response's nodes."""
        return self._nodes_of.get(spine.spine_id, [])

    def push(
        self, node: str, number: int, tokens: Sequence[int], values: npt.ArrayLike, factor: float
    ) -> Push:
        """Return a direction at a node, times a factor; NaN counts as 0."""
        values_T = np.nan_to_num(np.asarray(values, dtype=np.float64))
        return Push(number, self.position[node], np.asarray(tokens, np.int64), factor * values_T)

    def ideal_pushes(self, spines: Sequence[StoredSpine]) -> list[Push]:
        """Return the ideal directions of responses, numbered in order, times nodes' weights."""
        return [
            self.push(node, number, self.candidates[node], self.ideal[node], self.weight[node])
            for number, spine in enumerate(spines)
            for node in self.nodes_of(spine)
            if self.weight[node]
        ]


def ideal_update(
    responses: ForcedResponses,
    parameters: Sequence[torch.Tensor],
    spines: Sequence[StoredSpine],
    places: NodePlaces,
) -> list[torch.Tensor]:
    """Return a question's ideal update, a tensor per parameter."""
    total = LogitGradients(responses, parameters).along(places.ideal_pushes(spines))
    return [part / max(len(spines), 1) for part in total]


@dataclass(frozen=True)
class IdealUpdates:
    """The sum of all questions' ideal updates, by groups of shards.

    A group's sum is made with its first shard: nothing is left to do for the others. The sums go
    when every derivative is there.
    """

    kind: ClassVar[StageKind] = "distributions"
    name: ClassVar[str] = "ideal updates"
    unit: ClassVar[str] = "questions"

    def done(self, run: Run, shard: str) -> bool:
        """Whether the sum of the shard's group is there, or no longer needed."""
        group = groups_of(run.shards()).get(shard)
        if group is None or derivatives_are_there(run):
            return True
        if not run.folder.has_table("ideal_updates", shard):
            return False
        # A run that has more questions since has other groups.
        stored = run.folder.read_table("ideal_updates", shard, ["shards"])
        return bool(stored["shards"][0].as_py() == group)

    @contextmanager
    def session(self, run: Run) -> Iterator[Work]:
        """Hold the student, with gradients."""
        with open_space(run) as (model, parameters):

            def work(shard: str, tick: Tick) -> Counter[str]:
                import torch

                shards = groups_of(run.shards())[shard]
                num = sum(len(run.folder.read_table("questions", one)) for one in shards)
                total = [torch.zeros_like(p, dtype=torch.float32) for p in parameters]
                done = 0
                for one in shards:
                    places = NodePlaces(run, one)
                    for _, spines in read_shard(run.folder, one).by_question():
                        responses = responses_of(run, model, spines, places)
                        for part, new in zip(
                            total, ideal_update(responses, parameters, spines, places), strict=True
                        ):
                            part += new
                        done += 1
                        tick(done, num, 1)
                _write_sum(run, shards, total)
                return Counter()

            yield work


def groups_of(shards: Sequence[str]) -> dict[str, list[str]]:
    """Return the groups of shards, by the first of each."""
    number = len(shards)
    edges = [-(-number * group // GROUPS) for group in range(GROUPS + 1)]
    parts = [list(shards[begin:end]) for begin, end in itertools.pairwise(edges)]
    return {part[0]: part for part in parts if part}


def derivatives_are_there(run: Run) -> bool:
    """Whether no shard lacks its derivatives."""
    return all(has_derivatives(run, shard) for shard in run.shards())


def has_derivatives(run: Run, shard: str) -> bool:
    """Whether a shard has its derivatives along all other questions, and its ideal sketches."""
    if not run.folder.has_table("derivatives", shard):
        return False
    numbers = run.folder.read_table("derivatives", shard, ["num_questions"])["num_questions"]
    if len(numbers) and numbers[0].as_py() != num_questions(run):
        return False
    return IDEAL in updates_there(run, shard, NO_TEACHER)


def num_questions(run: Run) -> int:
    """Count the questions of a run."""
    return sum(len(run.folder.read_table("questions", shard)) for shard in run.shards())


def _write_sum(run: Run, shards: Sequence[str], total: Sequence[torch.Tensor]) -> None:
    rows = Rows("ideal_updates")
    for number, part in enumerate(total):
        values = part.flatten().cpu().numpy().tobytes()
        rows.add(1, shards=[list(shards)], parameter=number, update=[values])
    run.folder.write_table("ideal_updates", shards[0], rows.table_of())


def read_sum(run: Run, like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the sum of all questions' ideal updates, in float32.

    Args:
        run: the run.
        like: the space; shapes and device are taken from it.
    """
    import torch

    total = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in like]
    for shard in groups_of(run.shards()):
        table = run.folder.read_table("ideal_updates", shard)
        for part, stored in zip(total, table["update"], strict=True):
            values = torch.frombuffer(bytearray(stored.as_py()), dtype=torch.float32)
            part += values.view(part.shape).to(part.device)
    return total


def remove_sums(run: Run) -> None:
    """Delete the sums, which are as large as the space each."""
    for shard in run.folder.files("ideal_updates"):
        run.folder.remove_table("ideal_updates", shard)


def updates_there(run: Run, shard: str, label: str) -> set[str]:
    """Return the methods of one teacher whose updates a shard's table `gradients` has."""
    table = _updates(run, shard, label)
    return set() if table is None else set(table["method"].to_pylist())


def add_updates(run: Run, shard: str, label: str, table: pa.Table) -> None:
    """Write a teacher's updates beside those of methods that are there already."""
    before = _updates(run, shard, label)
    if before is not None:
        table = pa.concat_tables([before, table]).unify_dictionaries()
    run.folder.write_table("gradients", teacher_file(shard, label), table)


def _updates(run: Run, shard: str, label: str) -> pa.Table | None:
    name = teacher_file(shard, label)
    if not run.folder.has_table("gradients", name):
        return None
    table = run.folder.read_table("gradients", name)
    return table if "split" in table.column_names else None  # one of an older version

"""What a stage is, and what it is given."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from gradalign.config import ScoreConfig
from gradalign.contexts import CONTEXTS, DeltaSpec, TeacherSpec, models_read, parse_any
from gradalign.contexts import get as get_context
from gradalign.engines.held import HeldEngine
from gradalign.errors import UsageError
from gradalign.methods import Method
from gradalign.models.event_space import EventSpace
from gradalign.models.sampling import SamplingSettings
from gradalign.store.folder import RunFolder

Tick = Callable[[int, int, int], None]
"""Called with (units done, units of this shard, units new since the last call)."""

Work = Callable[[str, Tick], Counter[str]]
"""Do one shard (by its name), reporting progress; return counts for run.json."""


@runtime_checkable
class LooksAhead(Protocol):
    """A Work that may begin with a shard before it is asked for it."""

    def expect(self, shard: str) -> None:
        """Say which shard will probably be asked for after the next one."""
        ...


def announce(work: object, shard: str | None) -> None:
    """Tell a work which shard comes after the next one, if there is one and it wants to know."""
    if shard is not None and isinstance(work, LooksAhead):
        work.expect(shard)


@dataclass(frozen=True)
class Resolved:
    """What `prepare` worked out from the configuration, kept in run.json.

    Attributes:
        max_tokens: longest response.
        max_model_len: longest prompt and response together, for the engine.
        engine: the engine that `auto` became.
        verifier: the verifier's spec.
        stop_token_ids: tokens that end a response.
        vocab_size: size of the student's output layer.
        special_token_ids: tokens that are not text of a response's own.
        clock: the moment, in ISO format, that every chat template is told when it asks for the
            time: when the run was started.
        commits: of each model from the hub the commit that the run began with.
        pass_dtype: the coarsest dtype that student and teachers are read in, as far as it is known
            before they are opened: what their log-probabilities are worth.
        token_ranges: ids of the student's tokens as [begin, end): those that its tokenizer knows
            and its output layer has.
        common_token_ranges: the same of the tokens that each teacher checkpoint has too.
        warnings: what to mind, in words.
        controls: what is scored beside the named teachers.
        matching: how the tokens of a teacher checkpoint answer to the student's, where they are not
            the same ids: `ids` or `bytes`.
        allocated_by: the verifier that rollouts were made under, where another (or the same once
            more) has judged them since; empty otherwise.
    """

    max_tokens: int
    max_model_len: int
    engine: str
    verifier: str
    stop_token_ids: tuple[int, ...]
    vocab_size: int
    special_token_ids: tuple[int, ...]
    clock: str
    commits: Mapping[str, str]
    pass_dtype: str
    token_ranges: Sequence[Sequence[int]]
    common_token_ranges: Mapping[str, Sequence[Sequence[int]]]
    warnings: Sequence[str]
    controls: Sequence[str] = ()
    allocated_by: str = ""
    matching: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A run in progress: its settings and its folder. Plain data, so that workers can have it.

    What is opened for it in this process is a property of it, and no part of that data.
    """

    config: ScoreConfig
    resolved: Resolved

    @cached_property
    def folder(self) -> RunFolder:
        """The folder that all tables are read from and written to."""
        return RunFolder(self.config.output_dir)

    @cached_property
    def student_engine(self) -> HeldEngine:
        """The engine that samples from the student; it outlives stages for as long as it is kept.

        It is this process's own: workers have others.
        """
        return HeldEngine()

    @cached_property
    def named_teachers(self) -> list[TeacherSpec]:
        """The teachers that were asked for and are read: their tokens are candidates."""
        return models_read(self.config.teachers)

    @cached_property
    def read_teachers(self) -> list[TeacherSpec]:
        """The teachers that a model is read for, the controls last, if there are any."""
        return [spec for spec in self.teachers if isinstance(spec, TeacherSpec)]

    @cached_property
    def deltas(self) -> list[DeltaSpec]:
        """The teachers that are the difference of two others."""
        return [spec for spec in self.teachers if isinstance(spec, DeltaSpec)]

    @cached_property
    def teachers(self) -> list[TeacherSpec | DeltaSpec]:
        """All that is scored: what was asked for, in the order given, and last the controls."""
        return [parse_any(spec) for spec in (*self.config.teachers, *self.resolved.controls)]

    @property
    def needs_continuation_scores(self) -> bool:
        """Whether some method looks at what the models say of continuations."""
        from gradalign import methods

        return any("continuation_scores" in methods.get(spec).needs for spec in self.config.methods)

    @cached_property
    def teacher_template(self) -> str | None:
        """The text of the teachers' chat template, None for the tokenizers' own."""
        return read_template(self.config, teacher=True)

    @property
    def sampling(self) -> SamplingSettings:
        """How spines and continuations are drawn."""
        return SamplingSettings(
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            top_k=self.config.top_k,
            stop_token_ids=self.resolved.stop_token_ids,
        )

    @cached_property
    def tokens(self) -> EventSpace:
        """The tokens that the student draws: all of its own."""
        return EventSpace.stored(self.resolved.token_ranges)

    def common_tokens(self, model: str) -> EventSpace:
        """Return the tokens that a checkpoint and the student have: they are compared on these."""
        if model == self.config.student:
            return self.tokens
        return EventSpace.stored(self.resolved.common_token_ranges[model])

    def compared_tokens(self, label: str) -> EventSpace:
        """Return the tokens that the student and a teacher, by its label, are compared on."""
        teacher = self._teacher(label)
        if isinstance(teacher, DeltaSpec):  # both of its teachers are compared on the same
            return self.compared_tokens(teacher.first)
        return self.common_tokens(self.model_of(teacher))

    def matched_by_bytes(self, label: str) -> bool:
        """Whether a teacher, by its label, has other pieces of text than the student."""
        teacher = self._teacher(label)
        if isinstance(teacher, DeltaSpec):
            return self.matched_by_bytes(teacher.first) or self.matched_by_bytes(teacher.second)
        return self.resolved.matching.get(self.model_of(teacher)) == "bytes"

    def kept_tokens(self, label: str) -> int:
        """Return how many of each model's most probable tokens are kept of a teacher's nodes."""
        size = self.config.support_size
        return min(self.config.matched_candidates, size) if self.matched_by_bytes(label) else size

    def why_left_out(self, label: str, method: Method) -> str:
        """Say why a method is not scored under a teacher, by its label; "" where it is.

        Of a difference of teachers, and of one that is matched by bytes, only what it says at the
        nodes is known, and of the latter on few tokens.
        """
        delta = isinstance(self._teacher(label), DeltaSpec)
        if "teacher" not in method.needs or not (delta or self.matched_by_bytes(label)):
            return ""
        if method.beyond_nodes or not self.matched_by_bytes(label):
            return method.beyond_nodes
        most = self.kept_tokens(label)
        more = method.top_tokens > most
        return f"it looks at {method.top_tokens} top tokens, and {most} are known" if more else ""

    def _teacher(self, label: str) -> TeacherSpec | DeltaSpec:
        return next(item for item in self.teachers if item.label == label)

    def lacks_tokens(self, label: str) -> bool:
        """Whether a teacher, by its label, lacks tokens of the student."""
        return self.compared_tokens(label) != self.tokens

    def lacking_models(self) -> list[str]:
        """Return the teachers' checkpoints that lack tokens of the student, each once."""
        models = dict.fromkeys(self.model_of(teacher) for teacher in self.read_teachers)
        return [model for model in models if self.common_tokens(model) != self.tokens]

    def shards(self) -> list[str]:
        """Return the names of all shards."""
        return self.folder.files("questions")

    def prompt_differs_by_spine(self, label: str) -> bool:
        """Whether a teacher may read another prompt on every spine of a question."""
        teacher = self._teacher(label)
        if isinstance(teacher, DeltaSpec):
            return any(map(self.prompt_differs_by_spine, (teacher.first, teacher.second)))
        name = teacher.context.partition(":")[0]
        return name in CONTEXTS and get_context(teacher.context, ()).needs_attempts

    def model_of(self, teacher: TeacherSpec) -> str:
        """Return the checkpoint of a teacher; `self` is the student's."""
        return self.config.student if teacher.model == "self" else teacher.model

    @cached_property
    def teachers_by_model(self) -> dict[str, tuple[TeacherSpec, ...]]:
        """The teachers of each checkpoint: it is opened once for all of its contexts."""
        return self.by_model(self.read_teachers)

    def by_model(self, teachers: Iterable[TeacherSpec]) -> dict[str, tuple[TeacherSpec, ...]]:
        """Group teachers by their checkpoints."""
        grouped: dict[str, tuple[TeacherSpec, ...]] = {}
        for teacher in teachers:
            model = self.model_of(teacher)
            grouped[model] = (*grouped.get(model, ()), teacher)
        return grouped

    def model_options(self, model: str) -> dict[str, Any]:
        """Return the keyword arguments of `loaded_model` for the student or a teacher."""
        config = self.config
        return {
            "revision": self.revision_of(model),
            "dtype": config.dtype,
            "device": config.device,
            "trust_remote_code": config.trust_remote_code,
        }

    def revision_of(self, model: str) -> str | None:
        """Return the revision of a model: for one from the hub the commit, which stays."""
        config = self.config
        given = config.revision if model == config.student else config.teacher_revision
        return self.resolved.commits.get(model, given)

    def rng(self, *key: object) -> np.random.Generator:
        """Return a generator that depends on the run's seed and `key` only."""
        text = "\x00".join(str(part) for part in (self.config.seed, *key))
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.random.default_rng(int.from_bytes(digest, "little"))


StageKind = Literal[
    "sample", "distributions", "branch", "continuations", "answers", "prefix", "analysis"
]
"""What a stage does; plans and run.json add up times by it."""


class Stage(Protocol):
    """A step of the pipeline, done shard by shard. Stages of equal fields are equal.

    Attributes:
        kind: what it does.
        name: shown in progress and run.json; no two stages of a run have the same.
        unit: what its progress counts, such as "spines".
    """

    @property
    def kind(self) -> StageKind:
        """See the class."""
        ...

    @property
    def name(self) -> str:
        """See the class."""
        ...

    @property
    def unit(self) -> str:
        """See the class."""
        ...

    def done(self, run: Run, shard: str) -> bool:
        """Whether the shard's tables are there."""
        ...

    def session(self, run: Run) -> AbstractContextManager[Work]:
        """Hold what every shard needs (a model, an engine, a pool) while shards are done."""
        ...


def read_template(config: ScoreConfig, *, teacher: bool = False) -> str | None:
    """Return the text of the chat template file of the student or of the teachers, if any.

    Raises:
        UsageError: it cannot be read.
    """
    path = (config.teacher_chat_template if teacher else None) or config.chat_template
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"chat template {path} cannot be read: {error}.") from error


def teacher_file(shard: str, label: str) -> str:
    """Return the file name of one teacher's part of a shard."""
    digest = hashlib.blake2b(label.encode(), digest_size=3).hexdigest()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", label).strip("-")[:48]
    return f"{shard}-{slug}-{digest}"

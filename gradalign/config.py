"""One model of a run's settings: command-line flags, GRADALIGN_* variables, a file, and run.json.

Every field of `ScoreConfig` is a flag of `gradalign score` (`num_rollouts` is `--num-rollouts`),
an environment variable (`GRADALIGN_NUM_ROLLOUTS`), a key of the YAML, TOML or JSON file given by
`--config`, and a key of `config` in a report's run.json, which loads again as such a file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
)

from gradalign import limits
from gradalign.errors import UsageError
from gradalign.limits import Fraction, PositiveInt, Resamples, Seconds, Seed, Temperature, TokenId

DEFAULT_METHODS = ("gkd:beta=0", "gkd", "opd", "opsd", "minillm", "dr_grpo")

DIAGNOSTICS = ("overlap", "topk", "contexts", "horizon", "predictors", "prefix")
"""Every diagnostic, in the order in which they are computed."""

NEED_SAMPLING = ("prefix",)
"""Those that sample, and are therefore done only when they are asked for."""

GROUPS = {
    "what": "What to compare",
    "rollouts": "Rollouts",
    "nodes": "Nodes and candidates",
    "models": "Models and prompts",
    "engine": "Engine",
    "gate": "The gate after sampling",
    "run": "The run",
}


def chosen_diagnostics(names: Sequence[str]) -> tuple[str, ...]:
    """Return the diagnostics that a list of names stands for, in order.

    Args:
        names: names, or "all", or "none"; nothing stands for all that need no sampling.

    Raises:
        ValueError: a name that is not known, or "none" beside another.
    """
    unknown = sorted(set(names) - {*DIAGNOSTICS, "all", "none"})
    if unknown:
        raise ValueError(f"unknown {unknown[0]!r}; known: all, none, {', '.join(DIAGNOSTICS)}")
    if "none" in names:
        if set(names) != {"none"}:
            raise ValueError("none excludes every other name")
        return ()
    if "all" in names:
        return DIAGNOSTICS
    if not names:
        return tuple(name for name in DIAGNOSTICS if name not in NEED_SAMPLING)
    return tuple(name for name in DIAGNOSTICS if name in names)


def _setting(
    default: Any,
    group: str,
    help_text: str,
    *,
    affects_result: bool = True,
    flag: str | None = None,
    form: Literal["plain", "json", "texts", "values"] = "plain",
) -> Any:
    """Declare a field, and how the command line takes it.

    Args:
        default: its value where none is given; ... for none.
        group: a key of `GROUPS`.
        help_text: what it is, in a line.
        affects_result: False leaves it out of what a resumed run must match.
        flag: the command line's name for it; by default the field's with dashes.
        form: of the flag's argument: `plain`, as typer reads it; `json`, one JSON value; `texts`
            and `values`, key=value and repeatable, where a value is JSON if it can be.
    """
    extra: dict[str, JsonValue] = {
        "group": group,
        "affects_result": affects_result,
        "flag": flag,
        "form": form,
    }
    if default is ...:
        return Field(description=help_text, json_schema_extra=extra)
    if isinstance(default, (list, dict)):
        return Field(default_factory=default.copy, description=help_text, json_schema_extra=extra)
    return Field(default=default, description=help_text, json_schema_extra=extra)


class ScoreConfig(BaseModel):
    """Everything that decides what `gradalign score` does; see each field's description."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    student: str = _setting(..., "what", "Model id, folder, or demo:NAME of the student.")
    teachers: list[str] = _setting(
        ...,
        "what",
        "MODEL or MODEL+CONTEXT, repeatable; `self` is the student's own checkpoint.",
        flag="--teacher",
    )
    task: str = _setting(..., "what", "Task name or a questions file; see `gradalign tasks list`.")
    methods: list[str] = _setting(
        list(DEFAULT_METHODS),
        "what",
        "Method, repeatable; see `gradalign methods list`.",
        flag="--method",
    )
    verifier: str | None = _setting(
        None, "what", "exact, regex:PATTERN, choice, math or module:function; default: the task's."
    )
    limit: PositiveInt | None = _setting(
        None, "what", "Use at most this many questions; default: all."
    )
    sample_ids: list[str] = _setting(
        [], "what", "Use only this question, repeatable; default: all.", flag="--sample-id"
    )
    seed: Seed = _setting(0, "what", "Seed of every random choice of the run.")

    num_rollouts: PositiveInt = _setting(4, "rollouts", "Spines sampled per question.")
    continuations: Annotated[int, Field(ge=2, le=limits.MOST)] = _setting(
        8, "rollouts", "Targeted rollouts per candidate (on average, if not uniform)."
    )
    budget: PositiveInt | None = _setting(
        None,
        "rollouts",
        "Targeted rollouts per question at most, instead of --continuations; default: unbounded.",
    )
    target_se: Annotated[float, Field(gt=0)] | None = _setting(
        None,
        "rollouts",
        "Go on until the rollouts' share of the pooled alignment's standard error is this small "
        "(at most --budget, or ten times --continuations); default: not.",
    )
    allocation: Literal["uniform", "neyman"] = _setting(
        "neyman", "rollouts", "How targeted rollouts are spread over candidates."
    )
    max_tokens: PositiveInt | None = _setting(
        None, "rollouts", "Longest response; default: what the context leaves, at most 2048."
    )
    temperature: Temperature = _setting(
        1.0, "rollouts", "Sampling temperature of spines and continuations."
    )
    top_p: Fraction = _setting(1.0, "rollouts", "Nucleus mass; 1 for none.")
    top_k: Annotated[int, Field(ge=0, le=limits.MOST)] = _setting(
        0, "rollouts", "Most probable kept; 0 for all."
    )

    nodes: PositiveInt = _setting(16, "nodes", "Nodes chosen per spine.")
    node_sampler: Literal["all", "uniform", "entropy", "stratified"] = _setting(
        "entropy", "nodes", "How nodes are chosen; inclusion probabilities are exact."
    )
    max_candidates: Annotated[int, Field(ge=2, le=limits.MOST)] = _setting(
        8, "nodes", "Candidate tokens per node at most."
    )
    coverage: Fraction = _setting(
        0.98, "nodes", "Take the student's tokens until this much of its mass is covered."
    )
    min_prob: Annotated[float, Field(ge=0, lt=1)] = _setting(
        0.01, "nodes", "A teacher's token is a candidate if the student gives it this much."
    )
    support_size: Annotated[int, Field(ge=16, le=limits.MOST)] = _setting(
        128, "nodes", "Top tokens of student and of teacher kept at a node."
    )

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _setting(
        "auto", "models", "Weights of all models; auto: the checkpoint's, float32 on CPU."
    )
    device: str = _setting("auto", "models", "auto, cpu, cuda, cuda:1, mps, ...")
    revision: str | None = _setting(None, "models", "Hub revision of the student.")
    teacher_revision: str | None = _setting(None, "models", "Hub revision of the teachers.")
    trust_remote_code: bool = _setting(False, "models", "Run code that comes with a checkpoint.")
    chat_template: str | None = _setting(
        None, "models", "File with a chat template, instead of the tokenizers' own."
    )
    teacher_chat_template: str | None = _setting(
        None, "models", "The same for the teachers; default: --chat-template."
    )
    chat_template_kwargs: dict[str, Any] = _setting(
        {}, "models", "JSON passed to the student's chat template.", form="json"
    )
    teacher_chat_template_kwargs: dict[str, Any] = _setting(
        {}, "models", "JSON passed to the teachers' chat template.", form="json"
    )
    response_prefix: str = _setting("", "models", "Text that every response starts with.")
    alignment: Literal["pooled", "update"] = _setting(
        "pooled",
        "nodes",
        "pooled: every node by itself. update: beside it the cosine of the output layer's updates, "
        "in which nodes act together; one more pass of the student.",
    )
    mask_special: bool = _setting(
        False, "models", "Leave nodes where a special token was drawn out of the summary."
    )
    stop_token_ids: list[TokenId] = _setting(
        [], "models", "Further token id that ends a response.", flag="--stop-token-id"
    )

    engine: str = _setting(
        "auto",
        "engine",
        "auto, transformers, vllm or server; auto takes server if there is a --base-url, vllm if a "
        "GPU and vllm are there.",
    )
    base_urls: list[str] = _setting(
        [],
        "engine",
        "Running vLLM server of the student, http://HOST:PORT, repeatable. A key is read from "
        "GRADALIGN_API_KEY or OPENAI_API_KEY.",
        affects_result=False,
        flag="--base-url",
    )
    teacher_base_urls: list[str] = _setting(
        [],
        "engine",
        "MODEL=http://HOST:PORT of a vLLM server that has a teacher's model, repeatable; its top "
        "tokens then stand for its distribution.",
        flag="--teacher-base-url",
    )
    engine_args: dict[str, Any] = _setting(
        {}, "engine", "key=value for the engine, repeatable.", affects_result=False, form="values"
    )
    batch_tokens: PositiveInt = _setting(
        16384, "engine", "Tokens per teacher-forced forward pass.", affects_result=False
    )
    verify_workers: PositiveInt = _setting(
        2, "engine", "Processes that run the verifier.", affects_result=False
    )
    verify_timeout_seconds: Seconds = _setting(
        10.0, "engine", "A verification that takes longer fails."
    )
    max_verifier_failures: Annotated[float, Field(ge=0, le=1)] = _setting(
        0.05,
        "engine",
        "Share of verifications that may fail (raise, run out of time, return no number in "
        "[0, 1]) before the run stops, beyond what chance explains. They are missing, not wrong.",
        affects_result=False,
    )

    go_on: bool = _setting(
        False,
        "gate",
        "Go on where the gate would stop the run with exit status 4: because the sampled responses "
        "promise nothing, or the first targeted rollouts all end alike.",
        affects_result=False,
    )
    gate_responses: PositiveInt = _setting(
        30, "gate", "Fewer responses are not judged: they give a warning.", affects_result=False
    )
    gate_cut_off: Annotated[float, Field(ge=0, le=1)] = _setting(
        0.2, "gate", "Share of responses that --max-tokens may cut off.", affects_result=False
    )
    gate_empty: Annotated[float, Field(ge=0, le=1)] = _setting(
        0.2, "gate", "Share of responses that may be empty.", affects_result=False
    )
    gate_misread: Annotated[float, Field(ge=0, le=1)] = _setting(
        0.1,
        "gate",
        "Share of responses that may be wrong by the verifier and right by a laxer reading.",
        affects_result=False,
    )

    output_dir: str = _setting(
        ..., "run", "Folder or fsspec URL of the report.", affects_result=False
    )
    shard_size: PositiveInt = _setting(16, "run", "Questions per shard, the unit of resuming.")
    bootstrap_resamples: Resamples = _setting(
        2000, "run", "Cluster-bootstrap resamples behind every interval."
    )
    diagnose: list[str] = _setting(
        [],
        "run",
        "all, none, or one of "
        f"{', '.join(DIAGNOSTICS)}; repeatable. Default: those that need no sampling "
        "(not prefix). `gradalign diagnose` adds more later.",
        affects_result=False,
    )
    executor: Literal["local", "ray"] = _setting(
        "local", "run", "Where shards are done: in this process or on Ray.", affects_result=False
    )
    num_workers: PositiveInt = _setting(
        1, "run", "Workers of --executor ray, each with its own model.", affects_result=False
    )
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = _setting(
        None,
        "run",
        "GPUs of a Ray worker; default: tensor_parallel_size of the engine, 0 without GPUs.",
        affects_result=False,
    )
    labels: dict[str, str] = _setting(
        {},
        "run",
        "KEY=VALUE kept in run.json, repeatable.",
        affects_result=False,
        flag="--label",
        form="texts",
    )

    @field_validator("teachers", "methods")
    @classmethod
    def _not_empty(cls, values: list[str]) -> list[str]:
        if not values:
            raise ValueError("give at least one")
        return values

    @field_validator("teachers", "methods", "sample_ids", "base_urls", "teacher_base_urls")
    @classmethod
    def _distinct(cls, values: list[str]) -> list[str]:
        return limits.distinct(values)

    @field_validator("*")
    @classmethod
    def _plain_text(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                limits.plain_text(text)
        return value

    @field_validator(
        "student", "task", "output_dir", "verifier", "engine", "revision", "teacher_revision",
        "chat_template", "teacher_chat_template",
    )  # fmt: skip
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return value if value is None else limits.named(value)

    @field_validator("device")
    @classmethod
    def _device(cls, value: str) -> str:
        return limits.device(value)

    @field_validator(
        "chat_template_kwargs", "teacher_chat_template_kwargs", "engine_args", "labels"
    )
    @classmethod
    def _as_json(cls, value: dict[str, Any]) -> dict[str, Any]:
        return limits.as_json(value)

    @field_validator("diagnose")
    @classmethod
    def _known_diagnostics(cls, values: list[str]) -> list[str]:
        chosen_diagnostics(values)
        return values

    @classmethod
    def build(cls, values: dict[str, Any]) -> ScoreConfig:
        """Validate, with errors that name the flag.

        Raises:
            UsageError: a value is missing, unknown, or out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            problems = "; ".join(
                f"{flag_of(str(item['loc'][0])) if item['loc'] else 'config'}: "
                f"{item['msg'].removeprefix('Value error, ')}"
                + (
                    ""
                    if item["type"] in {"missing", "extra_forbidden"}
                    else f" (got {_shorten(item['input'])})"
                )
                for item in error.errors()
            )
            raise UsageError(f"{problems}.", "See `gradalign score --help`.") from None

    def result_fields(self) -> dict[str, Any]:
        """Return the settings that decide the result, as plain JSON values."""
        fields = {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if field_extra(name)["affects_result"]
        }
        # Which teachers are on servers decides the result; where the servers are does not.
        fields["teacher_base_urls"] = sorted(
            {entry.partition("=http")[0] for entry in self.teacher_base_urls}
        )
        return fields


def flag_of(field_name: str) -> str:
    """Return the command-line flag of a field, such as `--num-rollouts`."""
    given = field_extra(field_name)["flag"] if field_name in ScoreConfig.model_fields else None
    return given or "--" + field_name.replace("_", "-")


def field_extra(name: str) -> dict[str, Any]:
    """Return what `_setting` stored for a field: group, affects_result, flag and form."""
    extra = ScoreConfig.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return dict(extra)


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read settings from .yaml, .yml, .toml or .json; a report's run.json works too.

    Raises:
        UsageError: the file is missing, unreadable, or not a mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from error
    try:
        if path.suffix == ".toml":
            data: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            data = json.loads(text)
        else:
            import yaml

            data = yaml.safe_load(text)
    except Exception as error:  # each parser has its own exception type
        raise UsageError(f"{path} cannot be parsed: {error}.") from error
    if isinstance(data, dict) and isinstance(data.get("config"), dict):
        data = data["config"]
    if not isinstance(data, dict):
        raise UsageError(f"{path} must hold a mapping of settings, got {type(data).__name__}.")
    return {str(key).replace("-", "_"): value for key, value in data.items()}


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

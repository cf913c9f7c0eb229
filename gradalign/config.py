"""One model of a run's settings: command-line flags, GRADALIGN_* variables, a file, and run.json.

Every field of `ScoreConfig` is a flag of `gradalign score` (`num_rollouts` is `--num-rollouts`),
an environment variable (`GRADALIGN_NUM_ROLLOUTS`), a key of the YAML, TOML or JSON file given by
`--config`, and a key of `config` in a report's run.json, which loads again as such a file.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from gradalign import limits
from gradalign.errors import UsageError
from gradalign.limits import Fraction, PositiveInt, Resamples, Seconds, Seed, Temperature, TokenId
from gradalign.setting_errors import in_words, kind_of, shorten, spellings, takes_truth, unknown

DEFAULT_METHODS = ("gkd:beta=0", "gkd", "opd", "opsd", "minillm", "dr_grpo")

DIAGNOSTICS = ("overlap", "topk", "contexts", "horizon", "gram", "predictors", "rivals", "prefix")
"""Every diagnostic, in the order in which they are computed."""

LEVELS = ("pooled", "weights")
"""What alignment is measured between: directions on logits, and what they make of weights."""

NEED_SAMPLING = ("prefix",)
"""Those that sample, and are therefore done only when they are asked for."""

GROUPS = {
    "what": "What to compare",
    "rollouts": "Rollouts",
    "nodes": "Nodes and candidates",
    "rehearsal": "Rehearsed trainings",
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
        "MODEL, MODEL+CONTEXT, or delta:A,B for the difference of two teachers; repeatable. `self` "
        "is the student's own checkpoint.",
        flag="--teacher",
    )
    task: str = _setting(..., "what", "Task name or a questions file; see `gradalign tasks list`.")
    methods: list[str] = _setting(
        list(DEFAULT_METHODS),
        "what",
        "Method, repeatable; see `gradalign methods list`.",
        flag="--method",
    )
    control: bool = _setting(
        True,
        "what",
        "Score the student told something false beside the teachers: what a verdict must beat. It "
        "costs a pass over the responses, and no rollout.",
    )
    controls: bool = _setting(
        False,
        "what",
        "Score more controls: the student shown another question's answer, and the model of every "
        "teacher that is told something, asked in the same words without it. Each costs as much.",
    )
    verifier: str | None = _setting(
        None, "what", "exact, regex:PATTERN, choice, math or module:function; default: the task's."
    )
    limit: PositiveInt | None = _setting(
        None,
        "what",
        "Use at most this many questions; default: all. A larger one adds to a run that is there.",
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

    matched_candidates: Annotated[int, Field(ge=8, le=limits.MOST)] = _setting(
        16,
        "nodes",
        "Of a teacher with other pieces of text: top tokens of each model that it is read on.",
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
    require_same_tokenizer: bool = _setting(
        False,
        "models",
        "Refuse a teacher whose tokens have other ids or other pieces of text than the student's.",
    )
    alignment: list[str] = _setting(
        ["pooled"],
        "nodes",
        "pooled or weights, repeatable. pooled: every node by itself, always there. weights: the "
        "updates of the weights, in which nodes act together; a backward pass per teacher and "
        "method.",
    )
    weights_space: str = _setting(
        "all",
        "nodes",
        "Of --alignment weights: all, layers=PATTERN of parameters' names, or lora:rank=R.",
    )
    weights_batch: PositiveInt = _setting(
        32, "nodes", "Questions of a step of the training that --alignment weights foresees."
    )
    weights_adamw: str | None = _setting(
        None,
        "nodes",
        "Of --alignment weights: steps of AdamW beside plain ones. first: its first step, the sign "
        "of the gradient; or the file of an optimizer (torch, safetensors), for its exp_avg_sq.",
    )
    weights_quarters: bool = _setting(
        False,
        "nodes",
        "Take --alignment weights by quarters of the responses too: four times its passes.",
    )
    weights_derivative: Literal["auto", "differences", "forward"] = _setting(
        "auto",
        "nodes",
        "Of --alignment weights: how logits change along the ideal update. differences: two passes "
        "at moved weights. forward: exact, by forward-mode differentiation, in plain attention. "
        "auto: differences, and forward for students of more than 4e9 parameters, in bfloat16.",
    )
    rehearse: bool = _setting(
        False,
        "rehearsal",
        "Rehearse trainings: move the student as they would, and predict its success from stored "
        "responses and rollouts. Takes --alignment weights along.",
    )
    rehearse_steps: list[PositiveInt] = _setting(
        [3, 6, 12, 24], "rehearsal", "Number of steps to predict success after, repeatable."
    )
    rehearse_step: str = _setting(
        "auto",
        "rehearsal",
        "One step: kl=X, the KL(P || P') of whole responses that it makes (nats); length=X in the "
        "space of the weights; lr=X, the learning rate of a sum over tokens; auto, a kl that first "
        "order and stored responses bear. adamw: before it for steps of AdamW (adamw:lr=1e-6).",
    )
    rehearse_responses: PositiveInt | None = _setting(
        None,
        "rehearsal",
        "Responses per question of a step, beside the questions of --weights-batch; default: "
        "--num-rollouts.",
    )
    rehearse_self: Literal["fixed", "moving"] = _setting(
        "fixed",
        "rehearsal",
        "What a teacher of the student's own checkpoint is while the student trains. fixed: the "
        "checkpoint. moving: the student as it is.",
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
    teacher_accuracy: Annotated[int, Field(ge=0, le=limits.MOST)] = _setting(
        0,
        "run",
        "Have every teacher answer this many of the run's questions by itself, in its context, for "
        "its accuracy; 0 for none. A finished run takes it up later.",
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

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what Python takes for 1 and 0: `nodes: yes` is no number of nodes."""
        values = value if isinstance(value, list) else [value]
        field = cls.model_fields[str(info.field_name)]
        if any(isinstance(item, bool) for item in values) and not takes_truth(field):
            raise ValueError("a number is needed")
        return value

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

    @field_validator("alignment")
    @classmethod
    def _levels(cls, values: list[str]) -> list[str]:
        """Put them in one order; pooled is always among them."""
        unknown = sorted(set(values) - set(LEVELS))
        if unknown:
            raise ValueError(f"unknown {unknown[0]!r}; known: {', '.join(LEVELS)}")
        return [name for name in LEVELS if name == "pooled" or name in values]

    @field_validator("rehearse_steps")
    @classmethod
    def _rising(cls, values: list[int]) -> list[int]:
        if not values:
            raise ValueError("give at least one")
        return sorted(set(values))

    @model_validator(mode="after")
    def _rehearsed_in_weights(self) -> ScoreConfig:
        """A rehearsal goes by what batches have in common, which is of --alignment weights."""
        if self.rehearse and "weights" not in self.alignment:
            self.alignment.append("weights")
        return self

    @field_validator("diagnose")
    @classmethod
    def _known_diagnostics(cls, values: list[str]) -> list[str]:
        chosen_diagnostics(values)
        return values

    @classmethod
    def build(cls, values: dict[str, Any]) -> ScoreConfig:
        """Validate, with errors that name the flag.

        Args:
            values: by the names of settings, or of their flags with underscores; a single value
                of a setting that is a list stands for a list of one.

        Raises:
            UsageError: a value is missing, unknown, or out of range.
        """
        try:
            return cls(**by_field(values))
        except ValidationError as error:
            problems = in_words(error.errors(), cls.model_fields, _flags())
            raise UsageError(_sentence(problems), "See `gradalign score --help-all`.") from None

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


def _flags() -> dict[str, str]:
    return {name: flag_of(name) for name in ScoreConfig.model_fields}


def by_field(values: Mapping[str, Any]) -> dict[str, Any]:
    """Give values the names of their settings, and single values of lists a list.

    Args:
        values: by settings' names or by flags' (`teacher`, `output-dir`); others stay as they are.

    Raises:
        UsageError: two names of one setting have different values.
    """
    names = spellings(ScoreConfig.model_fields, _flags())
    found: dict[str, Any] = {}
    given: dict[str, str] = {}
    for key, value in values.items():
        name = names.get(str(key).removeprefix("--").replace("-", "_"), str(key))
        if name in ScoreConfig.model_fields and isinstance(value, str | int):
            kind = kind_of(ScoreConfig.model_fields[name].annotation)
            value = [value] if get_origin(kind.bare) is list else value
        if name in found and found[name] != value:
            raise UsageError(
                f"{given[name]} and {key} are the same setting, and their values differ.",
                "Keep one of them.",
            )
        found[name], given[name] = value, str(key)
    return found


def read_config_file(path: str | Path) -> dict[str, Any]:
    """Read settings from .yaml, .yml, .toml or .json; a report's run.json works too.

    Keys are settings' names or flags', with dashes or underscores.

    Args:
        path: the file, or an fsspec URL.

    Returns:
        The values by the names of their settings.

    Raises:
        UsageError: the file is missing, cannot be read or parsed, is not a mapping, or has a key
            that is no setting.
    """
    text = _text_of(str(path))
    try:
        data: Any = _parsed(str(path), text)
    except _UnreadableError as error:
        raise UsageError(f"{path} cannot be parsed: {_sentence(str(error))}") from None
    if isinstance(data, dict) and isinstance(data.get("config"), dict):
        data = data["config"]
    if data is None or data == {}:
        raise UsageError(f"{path} holds no settings.", "See `gradalign score --help-all`.")
    if not isinstance(data, dict):
        raise UsageError(
            f"{path} must hold a mapping of settings to values, and holds {shorten(data)}.",
            "Write a line such as `task: demo:addition` per setting.",
        )
    try:
        values = by_field(data)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", error.hint) from None
    wrong = [name for name in values if name not in ScoreConfig.model_fields]
    if wrong:
        known = spellings(ScoreConfig.model_fields, _flags())
        said = "; ".join(unknown(name, known) for name in wrong)
        raise UsageError(f"{path}: {_sentence(said)}", "See `gradalign score --help-all`.")
    return values


def _text_of(path: str) -> str:
    try:
        if "://" in path:
            import fsspec

            with fsspec.open(path, "rb") as file:
                data = file.read()
        else:
            data = Path(path).read_bytes()
        return str(data, "utf-8")
    except IsADirectoryError as error:
        raise UsageError(
            f"{path} is a folder, not a file of settings.", f"Of a run, give {path}/run.json."
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text in UTF-8.") from error
    except (OSError, ImportError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {path}: {why}.") from error


class _UnreadableError(Exception):
    """What a parser did not understand, and where."""


def _parsed(path: str, text: str) -> Any:
    if path.endswith(".toml"):
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _UnreadableError(str(error)) from None
    if path.endswith(".json"):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise _UnreadableError(f"line {error.lineno}: {error.msg}") from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise _UnreadableError(f"{line}{error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # a date that is none is a ValueError
        raise _UnreadableError(str(error)) from None


def _sentence(text: str) -> str:
    """End a text with one full stop, unless it ends with a question."""
    return text if text.endswith(("?", ".")) else f"{text}."

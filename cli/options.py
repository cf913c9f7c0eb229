"""Command-line options made from the fields of ScoreConfig, so that there is one list of them."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from gradalign.config import GROUPS, ScoreConfig, field_extra, flag_of, read_config_file
from gradalign.errors import UsageError
from gradalign.registry import parse_value

from .completion import COMPLETERS, complete_run
from .variables import check_variables

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Folder or URL that `gradalign score` wrote.",
        autocompletion=complete_run,
    ),
]
"""A finished run."""


def config_parameters(optional: Mapping[str, str] | None = None) -> list[inspect.Parameter]:
    """Return one typer parameter per setting; None stands for "not given".

    Args:
        optional: required settings that this command can do without, with what it takes then.
    """
    defaults = optional or {}
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_type_of(name, field), _option(name, field, defaults.get(name))],
        )
        for name, field in ScoreConfig.model_fields.items()
    ]


def with_parameters(
    function: Callable[..., Any], parameters: list[inspect.Parameter]
) -> Callable[..., Any]:
    """Give a `**settings` function the signature that typer reads its options from."""
    own = [
        parameter
        for parameter in inspect.signature(function, eval_str=True).parameters.values()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    every = [*own, *parameters]
    function.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return function


def build_config(given: dict[str, Any], config_file: str | None) -> ScoreConfig:
    """Merge flags and variables over the file over the defaults, and validate.

    Raises:
        UsageError: a value cannot be used; the message names the flag. Or a GRADALIGN_ variable
            is misspelt.
    """
    check_variables()
    values = read_config_file(config_file) if config_file else {}
    for name, value in given.items():
        if value is not None and value != []:
            values[name] = _parse(name, value)
    return ScoreConfig.build(values)


def _parse(name: str, value: Any) -> Any:
    """Turn what typer read into the setting's value, by the form of its flag."""
    form = field_extra(name)["form"]
    if form == "json":
        try:
            return json.loads(value)
        except ValueError as error:
            raise UsageError(f"{flag_of(name)}: {value!r} is not JSON: {error}.") from error
    if form == "plain":
        return value
    pairs = [item.partition("=") for item in value]
    for key, separator, _ in pairs:
        if not separator:
            raise UsageError(f"{flag_of(name)}: {key!r} has no value; write key=value.")
    return {key: parse_value(text) if form == "values" else text for key, _, text in pairs}


def _bare(annotation: Any) -> Any:
    """Strip Annotated and Optional."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _bare(kinds[0])
    return annotation


def _type_of(name: str, field: FieldInfo) -> Any:
    """Return the type that typer reads: of the field itself, or of the text it is parsed from."""
    form = field_extra(name)["form"]
    if form != "plain":
        return str | None if form == "json" else list[str] | None
    bare = _bare(field.annotation)
    if get_origin(bare) is list:
        return list[_bare(get_args(bare)[0])] | None  # type: ignore[misc]
    return bare | None


COMMON = frozenset(
    {
        "student",
        "teachers",
        "task",
        "methods",
        "limit",
        "num_rollouts",
        "continuations",
        "nodes",
        "output_dir",
        "dry_run",
    }
)
"""What `--help` of a command with all settings shows; `--help-all` shows the rest."""

METAVARS = {
    "student": "MODEL",
    "teachers": "TEACHER",
    "task": "TASK",
    "methods": "METHOD",
    "verifier": "VERIFIER",
    "sample_ids": "ID",
    "device": "DEVICE",
    "chat_template": "FILE",
    "teacher_chat_template": "FILE",
    "engine": "ENGINE",
    "base_urls": "URL",
    "teacher_base_urls": "MODEL=URL",
    "output_dir": "DIR",
    "diagnose": "NAME",
}
"""What stands for a value in help, where its type does not say it."""


def _option(name: str, field: FieldInfo, instead: str | None) -> Any:
    bare = _bare(field.annotation)
    flag = flag_of(name)
    extra = field_extra(name)
    form = {"json": "JSON", "texts": "KEY=VALUE", "values": "KEY=VALUE"}.get(extra["form"])
    needed = field.is_required() and instead is None
    return typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if bare is bool else flag,
        help=(field.description or "") + (" [required]" if needed else ""),
        metavar=METAVARS.get(name, form),
        envvar=f"GRADALIGN_{name.upper()}",
        show_envvar=False,
        show_default=instead or _shown_default(field),
        rich_help_panel=GROUPS[extra["group"]],
        autocompletion=COMPLETERS.get(name),
    )


def _shown_default(field: FieldInfo) -> str | bool:
    """Return a default as help shows it; False where there is none, or the text tells it."""
    default = field.get_default(call_default_factory=True)
    if field.is_required() or "default:" in (field.description or "").lower():
        return False
    return "none" if default in (None, "", [], {}) else _text(default)


def _text(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)

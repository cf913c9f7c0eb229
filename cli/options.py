"""Command-line options made from the fields of ScoreConfig, so that there is one list of them."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from gradalign.config import GROUPS, ScoreConfig, field_extra, flag_of, read_config_file
from gradalign.errors import UsageError

from .variables import check_variables


def config_parameters(skip: frozenset[str] = frozenset()) -> list[inspect.Parameter]:
    """Return one typer parameter per setting; None stands for "not given"."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[_type_of(field), _option(name, field)],
        )
        for name, field in ScoreConfig.model_fields.items()
        if name not in skip
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
    if name in {"chat_template_kwargs", "teacher_chat_template_kwargs"}:
        try:
            return json.loads(value)
        except ValueError as error:
            raise UsageError(f"{flag_of(name)}: {value!r} is not JSON: {error}.") from error
    if name in {"labels", "engine_args"}:
        pairs = [item.partition("=") for item in value]
        for key, separator, _ in pairs:
            if not separator:
                raise UsageError(f"{flag_of(name)}: {key!r} has no value; write key=value.")
        if name == "labels":
            return {key: text for key, _, text in pairs}
        return {key: _literal(text) for key, _, text in pairs}
    return value


def _literal(text: str) -> Any:
    """Read a JSON value; anything else is a string."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _bare(annotation: Any) -> Any:
    """Strip Annotated and Optional."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _bare(kinds[0])
    return annotation


def _type_of(field: FieldInfo) -> Any:
    bare = _bare(field.annotation)
    origin = get_origin(bare)
    if origin is list:
        return list[_bare(get_args(bare)[0])] | None  # type: ignore[misc]
    if origin is dict:
        return str | None if "Any" in str(bare) and "JSON" in _help(field) else list[str] | None
    if origin is Literal:
        return bare | None
    return bare | None


def _help(field: FieldInfo) -> str:
    return field.description or ""


def _option(name: str, field: FieldInfo) -> Any:
    bare = _bare(field.annotation)
    default = field.get_default(call_default_factory=True)
    required = field.is_required()
    shown = "" if required or default in (None, "", [], {}) else f" [default: {_text(default)}]"
    flag = flag_of(name)
    return typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if bare is bool else flag,
        help=_help(field) + shown,
        envvar=f"GRADALIGN_{name.upper()}",
        show_envvar=False,
        show_default=False,
        rich_help_panel=GROUPS[field_extra(name)["group"]],
    )


def _text(default: Any) -> str:
    return ", ".join(map(str, default)) if isinstance(default, list) else str(default)

"""`--help`: names that are never cut, defaults and brackets as they are, examples to paste.

Texts are printed as they are written, never read as rich's markup: brackets stay.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from gradalign.config import GROUPS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

WIDEST = 100
"""Columns that help takes at most: longer lines are hard to read."""

NAMES = 30
"""Columns for names where their explanation begins beside them."""

NARROW = 72
"""In fewer columns explanations stand below names."""

SHORT = 60
"""Characters of an explanation in a shell's list of completions: typer breaks lines at 80."""

ALL = "--help-all"

METAVARS = {"int": "N", "float": "X", "str": "TEXT"}
"""What stands for a value, by typer's word for its type."""


class HelpCommand(TyperCommand):
    """A command with this module's help.

    Attributes:
        common: names of the parameters that `--help` shows; None for all of them.
        examples: command lines that work as they are, each maybe of several lines.
    """

    common: Collection[str] | None = None
    examples: Sequence[str] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        rest = [item for item in self.params if not _is_common(item, self.common)]
        self.params.append(_help_all(hidden=not rest))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the common options, or after `--help-all` every one."""
        show_help(self, ctx, everything=False)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete options' names."""
        return _readable(super().shell_complete(ctx, incomplete))


class HelpGroup(TyperGroup):
    """A group of commands with this module's help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the commands."""
        show_help(self, ctx, everything=True)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete commands' names."""
        return _readable(super().shell_complete(ctx, incomplete))


def add_command(
    app: typer.Typer,
    name: str,
    function: Callable[..., Any],
    text: str | None = None,
    *,
    examples: Sequence[str] = (),
    common: Collection[str] | None = None,
) -> None:
    """Register a command.

    Args:
        app: the program, or a group of it.
        name: of the command.
        function: with typer's annotations.
        text: what it does; paragraphs are parted by an empty line. By default its docstring.
        examples: command lines that work as they are.
        common: names of the parameters that `--help` shows; None for all of them.
    """
    cls = type(
        "Help" + name.title(), (HelpCommand,), {"common": common, "examples": tuple(examples)}
    )
    app.command(name, help=text, cls=cls)(function)


def group(text: str) -> typer.Typer:
    """Return a group of commands."""
    return typer.Typer(cls=HelpGroup, help=text, no_args_is_help=True)


def show_help(command: TyperCommand | TyperGroup, ctx: Any, *, everything: bool) -> None:
    """Print a command's help on stdout.

    Args:
        command: the command, or a group of them.
        ctx: typer's context.
        everything: show also what is seldom needed.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    console.width = min(console.width, WIDEST)
    parameters = [item for item in command.get_params(ctx) if not getattr(item, "hidden", False)]
    common = None if everything else getattr(command, "common", None)
    shown = [item for item in parameters if _is_common(item, common)]
    if everything:
        shown = [item for item in shown if ALL not in item.opts]
    _print_usage(console, command, ctx)
    for paragraph in paragraphs(command.help or ""):
        for line in _wrapped(paragraph, console.width):
            console.print(line, soft_wrap=True)
        console.print()
    for title, items in _panels(shown):
        _print_rows(console, title, [(_name(item, ctx), _explanation(item)) for item in items])
    if isinstance(command, TyperGroup):
        commands = [(n, command.get_command(ctx, n)) for n in command.list_commands(ctx)]
        texts = [(n, next(paragraphs(c.help or ""), "")) for n, c in commands if c is not None]
        _print_rows(console, "Commands", texts)
    hidden = len(parameters) - len(shown)
    if hidden and not everything:
        console.print(f"{hidden} more options: {ctx.command_path} {ALL}", style="bold")
        console.print()
    _print_examples(console, getattr(command, "examples", ()))


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text, each as one line."""
    for part in re.split(r"\n\s*\n", text.strip()):
        if part.strip():
            yield " ".join(part.split())


def _help_all(*, hidden: bool) -> TyperOption:
    def show(ctx: Any, _: Any, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            show_help(ctx.command, ctx, everything=True)
            ctx.exit()

    def declared(
        value: bool = typer.Option(
            False,
            ALL,
            is_eager=True,
            expose_value=False,
            hidden=hidden,
            show_default=False,
            help="Show every option and exit.",
            callback=show,
        ),
    ) -> None:
        pass

    made = typer.main.get_command(_single(declared))
    return cast(TyperOption, next(item for item in made.params if ALL in item.opts))


def _single(function: Callable[..., None]) -> typer.Typer:
    app = typer.Typer(add_completion=False)
    app.command()(function)
    return app


def _is_common(item: Any, common: Collection[str] | None) -> bool:
    if common is None or isinstance(item, TyperArgument) or ALL in item.opts:
        return True
    return item.name in common or "--help" in item.opts


def _panels(items: Iterable[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yield titles with their parameters: arguments, the groups of settings, then the rest."""
    found: dict[str, list[Any]] = {}
    for item in items:
        default = "Arguments" if isinstance(item, TyperArgument) else "Options"
        found.setdefault(getattr(item, "rich_help_panel", None) or default, []).append(item)
    order = ["Arguments", *GROUPS.values()]
    last = [title for title in found if title not in order]
    for title in [*order, *last]:
        if title in found:
            yield title, found[title]


def _name(item: Any, ctx: Any) -> str:
    """Return how a parameter is written."""
    if isinstance(item, TyperArgument):
        return str(item.metavar or item.name.upper())
    value = _value(item, ctx)
    spelled = ", ".join(sorted(item.opts, key=len))  # -o before --output
    return "/".join([spelled, *item.secondary_opts]) + (f" {value}" if value else "")


def _value(item: Any, ctx: Any) -> str:
    """Return what stands for an option's value; nothing for a flag."""
    if item.is_flag:
        return ""
    if item.metavar:
        return str(item.metavar)
    kind = item.display_type(ctx).strip("<>").removesuffix(" range")
    kind = re.sub(r"^list\[(.*)\]$", r"\1", kind)
    return METAVARS.get(kind, kind)


def _explanation(item: Any) -> str:
    """Return a parameter's text, its range and its default."""
    text = " ".join((item.help or "").split())
    extra = [_range(item)]
    if isinstance(item.show_default, str):
        extra.append(f"default: {item.show_default}")
    elif _has_default(item):
        extra.append(f"default: {item.default}")
    if isinstance(item, TyperArgument) and item.required:
        extra.append("required")
    shown = "".join(f" [{part}]" for part in extra if part)
    return text + shown


def _has_default(item: Any) -> bool:
    """Whether a default is worth a word: a switch that is there or not has none."""
    if getattr(item, "is_flag", False) and not item.secondary_opts:
        return False
    return bool(item.show_default) and item.default is not None and not callable(item.default)


def _range(item: Any) -> str:
    low, high = getattr(item, "min", None), getattr(item, "max", None)
    if low is None and high is None:
        return ""
    if high is None:
        return f"{low} or more"
    return f"{high} or less" if low is None else f"{low} to {high}"


def _print_usage(console: Console, command: TyperCommand | TyperGroup, ctx: Any) -> None:
    words = [
        item.metavar or item.name.upper() if item.required else f"[{item.metavar or item.name}]"
        for item in command.params
        if isinstance(item, TyperArgument)
    ]
    if isinstance(command, TyperGroup):
        words.append("COMMAND")
    console.print("Usage:", ctx.command_path, *words, "[OPTIONS]", style="bold")
    console.print()


def _print_rows(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    """Print names with their explanations beside them; below, where a name is too long."""
    if not rows:
        return
    console.print(title, style="bold")
    fitting = [len(name) for name, _ in rows if len(name) <= NAMES]
    indent = max(fitting, default=0) + 4 if console.width >= NARROW else 6
    for name, text in rows:
        lines = _wrapped(text, console.width - indent)
        below = console.width < NARROW or len(name) > indent - 4
        beside = "" if below or not lines else lines.pop(0)
        begin = f"  {name}" if below else f"  {name:<{indent - 2}}"
        console.print(_styled(begin), beside, sep="", soft_wrap=True)
        for line in lines:
            console.print(" " * indent + line, soft_wrap=True)
    console.print()


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text between words; a short remark in brackets, or a command, stays whole."""
    kept = re.sub(
        r"\[[^\[\]]{,24}\]|`[^`]{,40}`", lambda found: found[0].replace(" ", "\xa0"), text
    )
    lines = textwrap.wrap(kept, max(width, 20), break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _styled(line: str) -> Text:
    from rich.text import Text

    text = Text(line)
    text.highlight_regex(r"(?<![\w-])-{1,2}[a-z][\w-]*", "bold cyan")
    return text


def _print_examples(console: Console, examples: Sequence[str]) -> None:
    if not examples:
        return
    console.print("Examples", style="bold")
    for example in examples:
        for line in example.splitlines():
            console.print(f"  {line}", soft_wrap=True)
    console.print()


def _readable(items: list[Any]) -> list[Any]:
    """Shorten explanations to a line, and keep their brackets: typer reads them as markup."""
    from rich.markup import escape

    for item in items:
        first = next(paragraphs(item.help or ""), "")
        item.help = escape(first if len(first) <= SHORT else f"{first[: SHORT - 3]}...") or None
    return items

"""Tables for a terminal of any width: no number is cut, and every row says whose it is.

The first of these layouts that fits is taken: each row on one line; brackets (intervals,
p-values) under the number they belong to; long names replaced by short ones, which are listed
below; the least important columns under their row, each value with its title. Off a terminal the
width is without limit, so that each row is one line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TextIO

from gradalign.report.format import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.text import Text

UNLIMITED = 10_000
"""The width of what is no terminal: more than any row needs."""

GAP = 2
LEAST_WIDTH = 20
LONGEST_NAME = 24


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its first line.
        right: cells stand at the right, as numbers do.
        whole: cells stay on one line, as numbers and names do.
        name: says whose row it is, and so never goes under the row; the first column is one.
        bracket: what stands in brackets may go under what is before it.
        priority: columns of the highest number are the first to go under their row.
        once: where all rows have the same, it is said once, below the table.
        least: width below which a column that is not whole goes under its row.
    """

    title: str
    right: bool = False
    whole: bool = False
    name: bool = False
    bracket: bool = False
    priority: int = 0
    once: bool = False
    least: int = LEAST_WIDTH


@dataclass(frozen=True)
class Section:
    """A line of its own that says what the rows below it have in common, such as a teacher.

    Attributes:
        title: the line.
        style: rich's style of it, beside bold; such as the teacher's colour in figures.
    """

    title: str
    style: str = ""


Row = Sequence[str] | Section | None


@dataclass(frozen=True)
class Layout:
    """How a table is laid out.

    Attributes:
        shown: places of the columns that stand side by side.
        widths: of each of them.
        folded: brackets go under.
        short: long names are replaced.
    """

    shown: tuple[int, ...]
    widths: tuple[int, ...]
    folded: bool
    short: bool


@dataclass(frozen=True)
class Table:
    """A table, to be printed by `print_table` or by rich; see `make_table`."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str | None = None
    lines: bool = True
    header: bool = True
    style: Callable[[Sequence[str]], str] | None = None
    short_names: Mapping[str, str] = field(default_factory=dict)
    same: tuple[tuple[str, str], ...] = ()
    highlight: bool = False

    @property
    def cells(self) -> list[Sequence[str]]:
        """The rows that are neither sections nor rules."""
        return [row for row in self.rows if row is not None and not isinstance(row, Section)]

    @property
    def indent(self) -> int:
        """Columns before a row that stands in a section."""
        return GAP if any(isinstance(row, Section) for row in self.rows) else 0

    def layout(self, width: int) -> Layout:
        """Choose the first layout that fits."""
        every = tuple(range(len(self.columns)))
        shorter = (False, True) if self.short_names else (False,)
        for short in shorter:
            for folded in (False, True):
                widths = self._widths(every, width, folded=folded, short=short)
                if widths is not None:
                    return Layout(every, widths, folded, short)
        short = shorter[-1]
        shown = every
        for shown in self._fewer():
            widths = self._widths(shown, width, folded=True, short=short)
            if widths is not None:
                return Layout(shown, widths, True, short)
        # Only names are left, and they are too long for this terminal: they go on below.
        room = max(width - self.indent - GAP * (len(shown) - 1), len(shown))
        natural = [self._natural(at, folded=True, short=short) for at in shown]
        spent = sum(natural[:-1])
        return Layout(shown, (*natural[:-1], max(room - spent, 1)), True, short)

    def _names(self) -> set[int]:
        named = {at for at, column in enumerate(self.columns) if column.name}
        return named or {0}

    def _fewer(self) -> Iterator[tuple[int, ...]]:
        """Yield the columns that are left when the least important ones go, step by step."""
        left = list(range(len(self.columns)))
        names = self._names()
        for level in sorted({column.priority for column in self.columns} - {0}, reverse=True):
            left = [at for at in left if at in names or self.columns[at].priority != level]
            yield tuple(left)
        for at in reversed(left.copy()):
            if at not in names:
                left.remove(at)
                yield tuple(left)

    def _widths(
        self, shown: Sequence[int], width: int, *, folded: bool, short: bool
    ) -> tuple[int, ...] | None:
        """Return the columns' widths; None where they do not fit."""
        natural = [self._natural(at, folded=folded, short=short) for at in shown]
        least = [
            wanted
            if self.columns[at].whole
            else max(min(wanted, self.columns[at].least), _longest_word(self.columns[at].title))
            for at, wanted in zip(shown, natural, strict=True)
        ]
        room = width - self.indent - GAP * (len(shown) - 1)
        if sum(least) > room:
            return None
        given = least
        # What is left goes to the columns that lack most, until none lacks anything.
        spare = room - sum(given)
        lacking = sum(natural) - sum(given)
        if lacking > spare:
            parts = [
                (wanted - has) * spare // lacking
                for wanted, has in zip(natural, given, strict=True)
            ]
            return tuple(has + part for has, part in zip(given, parts, strict=True))
        return tuple(natural)

    def _natural(self, at: int, *, folded: bool, short: bool) -> int:
        column = self.columns[at]
        texts = [
            line
            for row in self.cells
            for line in self.cell(row, at, folded=folded, short=short).split("\n")
        ]
        widest = max((_cells(text) for text in texts), default=0)
        if not self.header:
            return widest
        # A title of several words may take several lines, but not of numbers that need them not.
        return max(widest, _longest_word(column.title) if folded else _cells(column.title))

    def cell(self, row: Sequence[str], at: int, *, folded: bool, short: bool) -> str:
        """Return the text of a cell."""
        text = row[at]
        if short:
            for full, label in self.short_names.items():
                if text == full or text.endswith(f"@{full}"):
                    text = text.removesuffix(full) + label
                    break
        if folded and self.columns[at].bracket:
            text = re.sub(r" (?=[\[(])", "\n", text, count=1)
        return text

    def under(self, row: Sequence[str], shown: Sequence[int]) -> Iterator[tuple[str, bool]]:
        """Yield what stands under a row, each with whether others may stand beside it."""
        for at, column in enumerate(self.columns):
            if at in shown or not row[at]:
                continue
            if column.whole:
                natural = self._natural(at, folded=False, short=False)
                yield f"{column.title} {row[at]}".ljust(len(column.title) + 1 + natural), True
            else:
                yield f"{column.title}: {row[at]}", False

    def notes(self, layout: Layout) -> Iterator[str]:
        """Yield the lines below the table: what all rows share, and what short names stand for."""
        if self.same:
            yield "In every row: " + ", ".join(f"{title} {text}" for title, text in self.same) + "."
        if layout.short:
            for full, label in self.short_names.items():
                yield f"{label} = {full}"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        layout = self.layout(options.max_width)
        dash = "-" if options.ascii_only else "─"
        total = self.indent + sum(layout.widths) + GAP * (len(layout.widths) - 1)
        rule = Text(dash * min(total, options.max_width), style="dim")
        if self.title:
            yield Text(self.title, style="italic", overflow="fold")
        if self.header:
            titles = [self.columns[at].title for at in layout.shown]
            yield from self._lines(console, titles, layout, "bold")
            if self.lines:
                yield rule
        for row in self.rows:
            if row is None:
                yield rule
            elif isinstance(row, Section):
                yield Text(row.title, style=f"bold {row.style}".strip(), overflow="fold")
            else:
                texts = [
                    self.cell(row, at, folded=layout.folded, short=layout.short)
                    for at in layout.shown
                ]
                style = self.style(row) if self.style else ""
                yield from self._lines(console, texts, layout, style)
                yield from self._under(row, layout, options.max_width, style)
        for note in self.notes(layout):
            yield Text(note, style="dim", overflow="fold")

    def _lines(
        self, console: Console, texts: Sequence[str], layout: Layout, style: str
    ) -> Iterator[Text]:
        """Yield the lines of a row of cells side by side."""
        from rich.text import Text

        parts: list[list[str]] = []
        for text, width in zip(texts, layout.widths, strict=True):
            parts.append(list(wrapped(text, width)) or [""])
        for height in range(max(map(len, parts))):
            line = " " * self.indent
            for at, width, part in zip(layout.shown, layout.widths, parts, strict=True):
                text = part[height] if height < len(part) else ""
                pad = " " * (width - _cells(text))
                line += (pad + text if self.columns[at].right else text + pad) + " " * GAP
            drawn = Text(line.rstrip(), style=style, no_wrap=True, overflow="ignore")
            yield console.highlighter(drawn) if self.highlight and not style else drawn

    def _under(self, row: Sequence[str], layout: Layout, width: int, style: str) -> Iterator[Text]:
        """Yield the lines under a row."""
        from rich.text import Text

        margin = " " * (self.indent + GAP)
        room = max(width - len(margin), 1)
        lines = [""]
        for item, beside in self.under(row, layout.shown):
            joined = f"{lines[-1]}{' ' * GAP}{item}" if lines[-1] else item
            if lines[-1] and (not beside or _cells(joined.rstrip()) > room):
                lines.append(item)
            else:
                lines[-1] = joined
            if not beside:
                lines.append("")
        for line in lines:
            for part in wrapped(line.rstrip(), room) if line.strip() else ():
                yield Text(margin + part, style=style)


def make_table(
    columns: Iterable[Column],
    rows: Iterable[Row],
    *,
    title: str | None = None,
    lines: bool = True,
    header: bool = True,
    style: Callable[[Sequence[str]], str] | None = None,
    names: Iterable[str] = (),
) -> Table:
    """Make a table.

    Args:
        columns: from left to right.
        rows: a text per column; a Section is a line of its own above the rows that it is about;
            None draws a line between two rows.
        title: above the table.
        lines: a line below the header.
        header: the columns' titles.
        style: rich's style of a row.
        names: names in cells (alone, or after an @) that may be too long for a terminal.
    """
    kept = tuple(replace(column, title=visible(column.title)) for column in columns)
    shown = [_row(row, kept) for row in rows]
    cells = [row for row in shown if row is not None and not isinstance(row, Section)]
    same = [
        at
        for at, column in enumerate(kept)
        if column.once and len(cells) > 1 and len({row[at] for row in cells}) == 1
    ]
    left = [at for at in range(len(kept)) if at not in same]
    return Table(
        columns=tuple(kept[at] for at in left),
        rows=tuple(
            row if row is None or isinstance(row, Section) else tuple(row[at] for at in left)
            for row in shown
        ),
        title=title and visible(title),
        lines=lines,
        header=header,
        style=style,
        short_names=short_names(map(visible, names)),
        same=tuple((kept[at].title, cells[0][at]) for at in same),
    )


def _row(row: Row, columns: Sequence[Column]) -> Row:
    """Make what a row says fit to be shown."""
    if row is None:
        return None
    if isinstance(row, Section):
        return replace(row, title=visible(row.title))
    return tuple(
        visible(text, newlines=not column.whole) for text, column in zip(row, columns, strict=True)
    )


def sectioned(rows: Iterable[Sequence[str]]) -> Iterator[Row]:
    """Turn the first cell of each row into the title of a section, as long as it stays the same."""
    last = None
    for row in rows:
        if row[0] != last:
            last = row[0]
            yield Section(last)
        yield row[1:]


def short_names(names: Iterable[str], longest: int = LONGEST_NAME) -> dict[str, str]:
    """Give names that are too long a short one, by which no other name can be meant.

    It is the last part of a path or hub id, or, where that is long or not the only one, T1, T2,
    and so on.

    Args:
        names: all names that stand side by side.
        longest: a name up to this width stays as it is, and is not in the result.
    """
    every = list(dict.fromkeys(names))
    lasts = [name.rpartition("/")[2] for name in every]
    found: dict[str, str] = {}
    for name, last in zip(every, lasts, strict=True):
        if _cells(name) <= longest:
            continue
        clear = last and lasts.count(last) == 1 and last not in every and _cells(last) <= longest
        label = last if clear else f"T{len(found) + 1}"
        while label in found.values() or (label in every and label != name):
            label += "'"
        found[name] = label
    return found


_BREAKS = re.compile(r"\s+|(?<=[/:@=_\]])|(?<=,)(?!\d)")
"""Where a line may be broken: never inside a number."""


def wrapped(text: str, width: int) -> Iterator[str]:
    """Break a text into lines at blanks or after signs; what is still too long, anywhere.

    Args:
        text: it may have line ends of its own.
        width: in columns.
    """
    from rich.cells import chop_cells

    for own in text.split("\n"):
        line, start = "", 0
        for end in [*(match.end() for match in _BREAKS.finditer(own)), len(own)]:
            part, start = own[start:end], end
            if line and _cells(line + part.rstrip()) > width:
                yield line.rstrip()
                line = ""
            while _cells(part.rstrip()) > width:
                first = chop_cells(part, width)[0]
                yield first
                part = part[len(first) :]
            line += part
        yield line.rstrip()


def open_console(file: TextIO | None = None, width: int | None = None) -> Console:
    """Return a console for tables.

    Args:
        file: where to; stdout by default.
        width: in columns, where that is not a terminal; None for no limit.
    """
    from rich.console import Console

    out = file or sys.stdout
    wide = terminal_width(out) if out.isatty() else width or UNLIMITED
    # Of a dumb terminal rich believes a width only with a height; nothing here uses the height.
    return Console(file=file, width=wide, height=25, highlight=False, markup=False, emoji=False)


def terminal_width(out: TextIO) -> int:
    """Return the columns of a terminal: COLUMNS, or its own, or 80."""
    given = os.environ.get("COLUMNS", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def print_points(console: Console, points: Iterable[str]) -> None:
    """Print lines with a dash each; where one is too long, its rest stands below its beginning."""
    from rich.text import Text

    for point in points:
        first, *rest = Text(point).wrap(console, max(console.width - 2, 1))
        for mark, line in (("- ", first), *(("  ", line) for line in rest)):
            console.print(f"{mark}{line.plain.rstrip()}")


def print_table(
    table: Table,
    *,
    notes: Iterable[str] = (),
    width: int | None = None,
    file: TextIO | None = None,
    highlight: bool = False,
) -> Console:
    """Print a table; texts are shown as they are, brackets too.

    Args:
        table: made by `make_table`.
        notes: lines below it.
        width: in columns, where the output is not a terminal; None for what the table wants.
        file: where to; stdout by default.
        highlight: colour numbers on a terminal.

    Returns:
        The console, for what comes after.
    """
    console = open_console(file, width)
    console.print(replace(table, highlight=highlight))
    for line in notes:
        console.print(line, style="dim")
    return console


def _cells(text: str) -> int:
    """Return how many columns a text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _longest_word(title: str) -> int:
    return max((_cells(word) for word in title.split()), default=0)

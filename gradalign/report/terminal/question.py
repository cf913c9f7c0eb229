"""One question in the terminal: its responses with every node's token coloured by alignment.

What colour says is said without it too: the strongest tokens are listed with their numbers, and
where colours do not tell cosines apart, signs stand under the tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gradalign.alignment.value_interval import branch_interval
from gradalign.errors import UsageError
from gradalign.estimates import Arm
from gradalign.report.arms import AWAY, TOWARDS
from gradalign.report.export import choose_arm
from gradalign.report.format import number, visible
from gradalign.report.terminal.tables import Column, make_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.text import Text

    from gradalign.report.report import Report


def show_question(
    report: Report,
    question_id: str,
    *,
    teacher: str | None = None,
    method: str | None = None,
    position: int | None = None,
    spine: int | None = None,
) -> Iterator[RenderableType]:
    """Yield what to print about a question.

    Args:
        report: a finished run.
        question_id: which question.
        teacher: whose alignment colours the tokens; the best arm's by default.
        method: of which method.
        position: also list what was tried at this position of each shown response.
        spine: show only this response of the question, 0 the first.

    Raises:
        UsageError: no such question, response, teacher or method.
    """
    from rich.text import Text

    arm = _arm(report, teacher, method)
    questions = report.table("questions", question_id=question_id).to_dict("records")
    spines = report.table("spines", question_id=question_id).to_dict("records")
    if spine is not None:
        if not 0 <= spine < len(spines):
            raise UsageError(
                f"question {question_id} has no response {spine}.", f"0 to {len(spines) - 1}."
            )
        spines = spines[spine : spine + 1]
    aligned = report.table("alignment", question_id=question_id)
    aligned = aligned[(aligned["teacher"] == arm.teacher) & (aligned["method"] == arm.method)]
    cosines: dict[str, dict[int, float]] = {}
    for row in aligned.to_dict("records"):
        cosines.setdefault(str(row["spine_id"]), {})[int(row["position"])] = row["cosine"]
    said = report.table("tokens", ["spine_id", "position", "token"], question_id)
    said = said.drop_duplicates(["spine_id", "position"]).sort_values("position")
    texts = {str(key): list(part) for key, part in said.groupby("spine_id", observed=True)["token"]}
    for question in questions:  # none if the file is torn
        yield Text(visible(str(question["prompt"]), newlines=True), style="dim")
        if isinstance(question["answer"], str):
            yield Text(f"answer: {visible(question['answer'])}", style="dim")
    yield Text(f"alignment of {visible(str(arm))} with success, from -1 to +1", style="dim")
    yield _Legend()
    for row in spines:
        name = str(row["spine_id"])
        yield Text(f"\n{visible(name)}", style="bold") + _mark(row)
        tokens = texts.get(name) or [f"[{token}]" for token in row["token_ids"]]
        own = cosines.get(name, {})
        yield Response([visible(token) for token in tokens], own)
        yield from (Text(line, style="dim") for line in strongest(tokens, own))
        if position is not None:
            yield _candidates(report, question_id, f"{name}/{position}", arm, tokens, position)


def _arm(report: Report, teacher: str | None, method: str | None) -> Arm:
    """Return the arm whose alignment is shown; the first one where none has any."""
    return choose_arm(report, teacher, method)


SIGNS = {"+": "to success", "-": "away", "0": "neither", "~": "flat, any token will do"}
"""What stands under a token, and what it says of the cosine."""

NUM_STRONGEST = 3


@dataclass(frozen=True)
class Response:
    """A response; nodes are coloured, flat nodes underlined, the rest is plain.

    Where the console's colours do not tell cosines apart, a line of signs follows each line.

    Attributes:
        tokens: texts that can be shown.
        cosine_of: the cosine of each node's position; NaN where it is flat.
    """

    tokens: Sequence[str]
    cosine_of: Mapping[int, float]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        if not needs_signs(console):
            line = Text()
            for position, token in enumerate(self.tokens):
                line.append(token, style=_style(position, self.cosine_of))
            yield line
            return
        plain = console.no_color or console.color_system is None
        for line_of_tokens in _broken(self.tokens, options.max_width):
            line, signs = Text(no_wrap=True, overflow="ignore"), ""
            for position, part, begins, width in line_of_tokens:
                style = "" if plain else _style(position, self.cosine_of, few_colours=True)
                line.append(part, style=style)
                sign = sign_of(self.cosine_of[position]) if position in self.cosine_of else ""
                # A token of several columns has its sign under the first one.
                signs += (sign if begins else "").ljust(width)
            yield line
            if signs.strip():
                yield Text(signs.rstrip(), no_wrap=True, overflow="ignore")


class _Legend:
    """What colours, or signs, say."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        from rich.text import Text

        if needs_signs(console):
            said = ", ".join(f"{sign} {what}" for sign, what in SIGNS.items())
            yield Text(f"under measured tokens: {said}", style="dim")
            return
        shades = (-1, -0.5, 0.5, 1)
        parts = [(f" {number(value, 1)} ", f"white on {colour(value)}") for value in shades]
        yield Text.assemble(*parts, "  ", ("flat", "underline dim"))


def needs_signs(console: Console) -> bool:
    """Whether this console's colours do not tell cosines apart."""
    return console.no_color or console.color_system not in {"256", "truecolor"}


def sign_of(cosine: float) -> str:
    """Return what stands under a node's token."""
    if cosine != cosine:
        return "~"
    shown = number(cosine, 2)
    return "0" if float(shown) == 0 else shown[0]


def strongest(tokens: Sequence[str], cosine_of: Mapping[int, float]) -> Iterator[str]:
    """Yield a line of the tokens that lead most to success, and one of those that lead away.

    Args:
        tokens: of the response.
        cosine_of: by position; NaN where a node is flat.
    """
    known = [(cosine, position) for position, cosine in cosine_of.items() if cosine == cosine]
    for what, found in (
        ("most to success", sorted((item for item in known if item[0] > 0), reverse=True)),
        ("most away", sorted(item for item in known if item[0] < 0)),
    ):
        said = [
            f"{visible(tokens[position])!r} at {position} {number(cosine, 2)}"
            for cosine, position in found[:NUM_STRONGEST]
            if position < len(tokens)
        ]
        if said:
            yield f"{what}: {', '.join(said)}"


def _broken(tokens: Sequence[str], width: int) -> Iterator[list[tuple[int, str, bool, int]]]:
    """Break a response into lines; yield each line's (position, text, first part?, columns)."""
    from rich.cells import cell_len, chop_cells

    line: list[tuple[int, str, bool, int]] = []
    used = 0
    for position, token in enumerate(tokens):
        pieces = chop_cells(token, width) if cell_len(token) > width else [token]
        for number_of_piece, piece in enumerate(pieces):
            columns = cell_len(piece)
            if line and used + columns > width:
                yield line
                line, used = [], 0
            line.append((position, piece, number_of_piece == 0, columns))
            used += columns
    if line:
        yield line


def _style(position: int, cosine_of: Mapping[int, float], *, few_colours: bool = False) -> str:
    """Return how a token is shown."""
    if position not in cosine_of:
        return ""
    cosine = cosine_of[position]
    if cosine != cosine:
        return "underline dim"
    if few_colours:
        return {"+": "white on blue", "-": "black on yellow"}.get(sign_of(cosine), "")
    return f"white on {colour(cosine)}"


def _mark(spine: dict[Any, Any]) -> Text:
    """Return whether a response is correct, and its reward."""
    from rich.text import Text

    if spine["correct"] is None:
        return Text(f" not verified ({spine['verifier_error']})", "yellow")
    mark = Text(" correct", "green") if spine["correct"] else Text(" incorrect", "red")
    return mark + Text(f"  reward {spine['reward']:g}", "default")


def colour(cosine: float) -> str:
    """Return an rgb colour for a cosine: orange away from success, blue towards it, grey at 0."""
    end = bytes.fromhex((AWAY if cosine < 0 else TOWARDS).removeprefix("#"))
    share = min(abs(cosine), 1.0)
    mixed = (round(70 + (value - 70) * share) for value in end)
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _candidates(
    report: Report, question_id: str, node_id: str, arm: Arm, tokens: list[str], position: int
) -> Any:
    """Return a table of what was tried at a node."""
    from rich.text import Text

    rows = report.table("branches", question_id=question_id)
    rows = rows[rows["node_id"] == node_id]
    if not len(rows):
        return Text(f"position {position} was not branched", style="dim")
    seen = report.table("branch_teachers", question_id=question_id)
    seen = seen[seen["node_id"] == node_id]
    names = list(dict.fromkeys(map(str, seen["teacher"])))
    probs = {
        (str(row["teacher"]), row["token_id"]): row["teacher_prob"]
        for row in seen.to_dict("records")
    }
    resolved = report.metadata.get("resolved", {})
    found = []
    for row in rows.to_dict("records"):
        low, high = branch_interval(row, resolved)
        found.append(
            (
                str(row["token"]),
                _unsigned(row["student_prob"]),
                "-" if low != low else f"{row['value']:.3f} [{low:.3f}, {high:.3f}]",
                str(row["num_continuations"]),
                number(row["ideal"]),
                *(_unsigned(probs.get((name, row["token_id"]))) for name in names),
            )
        )
    return make_table(
        [
            Column("token", whole=True),
            Column("P", right=True, whole=True),
            Column("V (95 %)", right=True, whole=True, bracket=True),
            Column("n", right=True, whole=True, priority=2),
            Column("ideal", right=True, whole=True),
            *(Column(f"Q {visible(name)}", right=True, whole=True, priority=1) for name in names),
        ],
        found,
        title=f"position {position}: {tokens[position]}",
    )


def _unsigned(value: float | None) -> str:
    """Format a probability; a dash where there is none."""
    return "-" if value is None or value != value else f"{value:.3f}"

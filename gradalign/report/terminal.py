"""One question in the terminal: its responses with every node's token coloured by alignment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradalign.alignment import Arm
from gradalign.alignment.value_interval import branch_interval
from gradalign.errors import UsageError
from gradalign.report.export import choose_arm
from gradalign.report.format import number, visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from gradalign.report.report import Report

_AWAY, _TOWARDS = (201, 82, 44), (31, 95, 173)


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
    yield Text(f"coloured by the alignment of {visible(str(arm))}: ", style="dim") + _legend()
    for row in spines:
        name = str(row["spine_id"])
        yield Text(f"\n{visible(name)}", style="bold") + _mark(row)
        tokens = texts.get(name) or [f"[{token}]" for token in row["token_ids"]]
        yield _coloured(tokens, cosines.get(name, {}))
        if position is not None:
            yield _candidates(report, question_id, f"{name}/{position}", arm, tokens, position)


def _arm(report: Report, teacher: str | None, method: str | None) -> Arm:
    """Return the arm whose alignment is shown; the first one where none has any."""
    summary = report.summary
    if teacher is None and method is None and not summary["pooled"].notna().any():
        return Arm(str(summary["teacher"].iloc[-1]), str(summary["method"].iloc[-1]))
    return choose_arm(report, teacher, method)


def _coloured(tokens: list[str], cosine_of: dict[int, float]) -> Text:
    """Return a response; nodes are coloured, flat nodes underlined, the rest is plain."""
    from rich.text import Text

    line = Text()
    for position, token in enumerate(tokens):
        if position not in cosine_of:
            style = ""
        elif cosine_of[position] != cosine_of[position]:
            style = "underline dim"
        else:
            style = f"white on {colour(cosine_of[position])}"
        line.append(visible(token), style=style)
    return line


def _mark(spine: dict[Any, Any]) -> Text:
    """Return whether a response is correct, and its reward."""
    from rich.text import Text

    if spine["correct"] is None:
        return Text(f" not verified ({spine['verifier_error']})", "yellow")
    mark = Text(" correct", "green") if spine["correct"] else Text(" incorrect", "red")
    return mark + Text(f"  reward {spine['reward']:g}", "default")


def _legend() -> Text:
    from rich.text import Text

    parts = [(f" {number(value, 1)} ", f"white on {colour(value)}") for value in (-1, -0.5, 0.5, 1)]
    return Text.assemble(*parts, "  ", ("flat", "underline dim"))


def colour(cosine: float) -> str:
    """Return an rgb colour for a cosine: orange away from success, blue towards it, grey at 0."""
    end = _AWAY if cosine < 0 else _TOWARDS
    share = min(abs(cosine), 1.0)
    mixed = (round(70 + (value - 70) * share) for value in end)
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _candidates(
    report: Report, question_id: str, node_id: str, arm: Arm, tokens: list[str], position: int
) -> Any:
    """Return a table of what was tried at a node."""
    from rich.table import Table
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
    table = Table(title=f"position {position}: {visible(tokens[position])}", title_justify="left")
    for title in (
        "token",
        "P",
        "V (95 %)",
        "n",
        "ideal",
        *(f"Q {visible(name)}" for name in names),
    ):
        table.add_column(title, justify="left" if title == "token" else "right")
    resolved = report.metadata.get("resolved", {})
    for row in rows.to_dict("records"):
        low, high = branch_interval(row, resolved)
        table.add_row(
            Text(visible(row["token"])),
            f"{row['student_prob']:.3f}",
            "-" if low != low else f"{row['value']:.3f} [{low:.3f}, {high:.3f}]",
            str(row["num_continuations"]),
            number(row["ideal"]),
            *(f"{probs.get((name, row['token_id']), float('nan')):.3f}" for name in names),
        )
    return table

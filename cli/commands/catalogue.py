"""`gradalign methods|tasks|contexts list|show`: what there is to choose from."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from gradalign.report.format import visible
from gradalign.report.terminal.tables import open_console, print_points

from ..completion import complete_method, complete_task, complete_trainer
from ..help import add_command, group
from ..output import json_flag, print_json, print_records

ListJson = Annotated[bool, json_flag("the list")]


def add_to(app: typer.Typer) -> None:
    """Register the command groups."""
    methods = group("Distillation and RL methods.")
    add_command(
        methods,
        "list",
        _methods_list,
        examples=("gradalign methods list", "gradalign methods list --trainer verl"),
    )
    add_command(methods, "show", _methods_show, examples=("gradalign methods show gkd:beta=0.5",))
    app.add_typer(methods, name="methods")
    tasks = group("Sources of questions.")
    add_command(tasks, "list", _tasks_list, examples=("gradalign tasks list",))
    add_command(
        tasks, "show", _tasks_show, examples=("gradalign tasks show demo:addition --limit 3",)
    )
    app.add_typer(tasks, name="tasks")
    contexts = group("What a teacher may be shown.")
    add_command(contexts, "list", _contexts_list, examples=("gradalign contexts list",))
    app.add_typer(contexts, name="contexts")


def _methods_list(
    trainer: Annotated[
        str,
        typer.Option(
            "--trainer",
            metavar="NAME",
            help="What this trainer's settings are called here; `all` for every trainer.",
            autocompletion=complete_trainer,
        ),
    ] = "",
    json_output: ListJson = False,
) -> None:
    """List every method: formula, source, options. With --trainer, a trainer's settings."""
    if trainer:
        from gradalign.methods.aliases import chosen, listed, trainers

        found = listed(trainers().values() if trainer == "all" else chosen(trainer))
        if json_output:
            print_json(found)
        else:
            _print_trainers(found)
        return
    from gradalign.methods.registry import describe

    print_records(describe(), json_output=json_output)


def _print_trainers(records: list[dict[str, Any]]) -> None:
    """Print what each trainer's settings are called here, and its defaults."""
    console = open_console()
    for number, record in enumerate(records):
        newest = record["versions"][0]
        if number:
            console.print()
        console.print(f"{record['trainer']}: {record['title']} ({newest['version']})", style="bold")
        lines = []
        for spelling in record["spellings"]:
            note = f" ({spelling['note'].removesuffix('.')})" if spelling["note"] else ""
            lines.append(f"{spelling['where']}: {spelling['method'] or 'no method here'}{note}")
        for version in record["versions"]:
            values = (
                f"{key}={value if isinstance(value, str) else json.dumps(value)}"
                for key, value in version["defaults"].items()
            )
            lines.append(f"defaults of {version['version']}: {', '.join(values)}")
        print_points(console, map(visible, lines))
    console.print(
        "\nA file of a trainer's own: --method config:trainer=NAME,path=FILE", highlight=False
    )


def _methods_show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="METHOD",
            help="A method, with or without options.",
            autocompletion=complete_method,
        ),
    ],
) -> None:
    """Show one method in full."""
    from gradalign.methods.registry import explain

    typer.echo(explain(name))


def _tasks_list(json_output: ListJson = False) -> None:
    """List every task."""
    from gradalign import tasks

    print_records(tasks.describe(), json_output=json_output)


def _tasks_show(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="TASK", help="A task as --task takes it.", autocompletion=complete_task
        ),
    ],
    limit: Annotated[int, typer.Option(min=1, help="Questions to show.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of their order.")] = 0,
) -> None:
    """Show a task and its first questions."""
    from gradalign.tasks import load_task

    task = load_task(spec)
    questions = task.questions(limit, (), seed)
    typer.echo(f"{task.name}: {task.description}")
    typer.echo(f"verifier: {task.verifier}")
    typer.echo(f"fingerprint: {task.fingerprint}")
    for question in questions:
        typer.echo(f"\n--- {question.id}")
        if isinstance(question.prompt, str):
            typer.echo(question.prompt)
        else:
            for message in question.prompt:
                typer.echo(f"{message.role}: {message.content}")
        typer.echo(f"answer: {question.answer}")
        if question.contexts:
            typer.echo(f"contexts in the row: {', '.join(sorted(question.contexts))}")


def _contexts_list(json_output: ListJson = False) -> None:
    """List every context."""
    from gradalign import contexts

    print_records(contexts.describe(), json_output=json_output)

"""`gradalign methods|tasks|contexts list|show`: what there is to choose from."""

from __future__ import annotations

from typing import Annotated

import typer

from .output import JsonOption, print_records


def add_to(app: typer.Typer) -> None:
    """Register the command groups."""
    methods = typer.Typer(help="Distillation and RL methods.", no_args_is_help=True)
    methods.command("list")(_methods_list)
    methods.command("show")(_methods_show)
    app.add_typer(methods, name="methods")
    tasks = typer.Typer(help="Sources of questions.", no_args_is_help=True)
    tasks.command("list")(_tasks_list)
    tasks.command("show")(_tasks_show)
    app.add_typer(tasks, name="tasks")
    contexts = typer.Typer(help="What a teacher may be shown.", no_args_is_help=True)
    contexts.command("list")(_contexts_list)
    app.add_typer(contexts, name="contexts")


def _methods_list(json_output: JsonOption = False) -> None:
    """List every method: formula, source, options."""
    from gradalign.methods.registry import describe

    print_records(describe(), json_output=json_output)


def _methods_show(
    name: Annotated[str, typer.Argument(help="A method, with or without options.")],
) -> None:
    """Show one method in full."""
    from gradalign.methods.registry import explain

    typer.echo(explain(name))


def _tasks_list(json_output: JsonOption = False) -> None:
    """List every task."""
    from gradalign import tasks

    print_records(tasks.describe(), json_output=json_output)


def _tasks_show(
    spec: Annotated[str, typer.Argument(help="A task as --task takes it.")],
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


def _contexts_list(json_output: JsonOption = False) -> None:
    """List every context."""
    from gradalign import contexts

    print_records(contexts.describe(), json_output=json_output)

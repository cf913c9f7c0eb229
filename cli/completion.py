"""What a shell offers after TAB: methods, tasks, teachers, contexts, verifiers, engines, runs.

The registries are asked, so plugins' names are offered too. Nothing here opens a model.
"""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import typer

VARIABLE = "_GRADALIGN_COMPLETE"
"""Set by a shell's completion function; its value names the shell."""

MOST_FOLDERS = 200
"""Folders that are looked into for runs."""


@contextmanager
def _in_silence() -> Iterator[None]:
    """Keep a plugin's prints and warnings off the line that is being typed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stderr, sys.stderr = sys.stderr, io.StringIO()
        try:
            yield
        finally:
            sys.stderr = stderr


def complete_method(incomplete: str) -> list[str]:
    """Return methods; after `NAME:` the options of that one."""
    from gradalign.methods.registry import REGISTRY, method_class

    name, colon, rest = incomplete.partition(":")
    with _in_silence():
        if not colon or name not in REGISTRY:
            return REGISTRY.names()
        given = rest.rpartition(",")[0]
        begin = f"{name}:{given}," if given else f"{name}:"
        return [f"{begin}{option.name}=" for option in method_class(name).options()]


def complete_trainer(incomplete: str) -> list[str]:
    """Return the trainers whose settings are known."""
    from gradalign.methods.aliases import trainers

    return ["all", *trainers()]


def complete_task(incomplete: str) -> list[str]:
    """Return tasks, and files of questions."""
    from gradalign import tasks

    with _in_silence():
        known = tasks.describe()
    names = dict.fromkeys(text for item in known for text in (item["name"], item["example"]))
    files = ("FILE", "questions.jsonl")  # stand for any file
    return [
        *(name for name in names if name not in files),
        *_paths(incomplete, (".jsonl", ".json", ".parquet", ".csv")),
    ]


def complete_verifier(incomplete: str) -> list[str]:
    """Return verifiers."""
    from gradalign.verifiers import VERIFIERS

    with _in_silence():
        return VERIFIERS.names()


def complete_engine(incomplete: str) -> list[str]:
    """Return engines."""
    from gradalign.engines import ENGINES

    with _in_silence():
        return sorted({"auto", *ENGINES.names()})


def complete_context(incomplete: str) -> list[str]:
    """Return what a teacher may be shown."""
    from gradalign.contexts import CONTEXTS

    with _in_silence():
        return CONTEXTS.names()


def complete_model(incomplete: str) -> list[str]:
    """Return the bundled models, and folders."""
    from gradalign.demo import MODEL_NAMES

    return [*(f"demo:{name}" for name in MODEL_NAMES), *_paths(incomplete, ())]


def complete_teacher(incomplete: str) -> list[str]:
    """Return models; after `MODEL+` the contexts; after `delta:` and its comma the same again."""
    from gradalign.contexts.teachers import DELTA

    if incomplete.startswith(DELTA):
        first, comma, second = incomplete.removeprefix(DELTA).partition(",")
        begin = f"{DELTA}{first}," if comma else DELTA
        own = _complete_teacher(second if comma else first)
        return [f"{begin}{name}" for name in own]
    return [*_complete_teacher(incomplete), DELTA]


def _complete_teacher(incomplete: str) -> list[str]:
    """Return models; after `MODEL+` the contexts."""
    model, plus, context = incomplete.partition("+")
    if plus:
        return [f"{model}+{name}" for name in complete_context(context)]
    return ["self", *(f"self+{name}" for name in complete_context("")), *complete_model(incomplete)]


def complete_diagnostic(incomplete: str) -> list[str]:
    """Return diagnostics."""
    from gradalign.config import DIAGNOSTICS

    return ["all", "none", *DIAGNOSTICS]


def complete_alignment(incomplete: str) -> list[str]:
    """Return levels of alignment."""
    from gradalign.config import LEVELS

    return list(LEVELS)


def complete_run(incomplete: str) -> list[str]:
    """Return the folders that hold a run: beside what was typed, and one level below it."""
    head, separator, _ = incomplete.rpartition("/")
    begin = head + separator
    found = []
    for folder in _folders(Path(os.path.expanduser(begin or "."))):
        if _is_run(folder):
            found.append(f"{begin}{folder.name}")
        elif f"{begin}{folder.name}".startswith(incomplete):
            found += [f"{begin}{folder.name}/{x.name}" for x in _folders(folder) if _is_run(x)]
    return found


def complete_teacher_of_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the teachers of the run that was typed before."""
    return _of_run(ctx, "teachers")


def complete_method_of_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the methods of the run that was typed before."""
    return _of_run(ctx, "methods")


COMPLETERS: Mapping[str, Callable[[str], Any]] = {
    "student": complete_model,
    "teachers": complete_teacher,
    "task": complete_task,
    "methods": complete_method,
    "verifier": complete_verifier,
    "engine": complete_engine,
    "alignment": complete_alignment,
    "diagnose": complete_diagnostic,
    "output_dir": complete_run,
}
"""What completes the value of a setting, by its name."""


def _of_run(ctx: typer.Context, what: str) -> list[str]:
    # Before a value that is still missing, arguments are not assigned yet.
    typed = [str(word) for word in (ctx.params.get("run"), *ctx.args) if word]
    for place in typed:
        try:
            record = json.loads(Path(place, "run.json").read_text())
            return [str(name) for name in record["config"][what]]
        except (OSError, ValueError, KeyError, TypeError):  # no run there: nothing to offer
            continue
    return []


def _folders(place: Path) -> list[Path]:
    try:
        inside = sorted(path for path in place.iterdir() if path.is_dir())
    except OSError:
        return []
    return [path for path in inside if not path.name.startswith(".")][:MOST_FOLDERS]


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _paths(incomplete: str, endings: tuple[str, ...]) -> list[str]:
    """Return files of these endings, and folders, that begin with what was typed."""
    head, separator, _ = incomplete.rpartition("/")
    if not incomplete:
        return []
    begin = head + separator
    try:
        inside = sorted(Path(os.path.expanduser(begin or ".")).iterdir())
    except OSError:
        return []
    found = [path for path in inside if path.is_dir() or path.suffix in endings]
    return [f"{begin}{path.name}" + ("/" if path.is_dir() else "") for path in found]


def complete_in_bash(program: Callable[[], object]) -> None:
    """Answer bash's completion, which takes `demo:student` and `--nodes=4` for three words.

    The words are put together again for the program; what bash has already, up to the last such
    mark, is taken off the answers.

    Args:
        program: reads the variables of typer's protocol and writes a line per answer.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    try:
        at = int(os.environ.get("COMP_CWORD", ""))
    except ValueError:
        at = len(words) - 1
    joined, known = _rejoined(words, at)
    os.environ["COMP_WORDS"] = "\n".join(joined)
    os.environ["COMP_CWORD"] = str(len(joined) - 1)
    answers = io.StringIO()
    try:
        with redirect_stdout(answers):
            program()
    finally:
        for line in answers.getvalue().splitlines():
            print(line.removeprefix(known))


def _rejoined(words: list[str], at: int) -> tuple[list[str], str]:
    """Return the words up to the one at the cursor, and what bash has of that one."""
    joined: list[str] = []
    glue = False
    for word in [*words[: at + 1], *[""] * max(at + 1 - len(words), 0)]:
        mark = word in {":", "="}
        if len(joined) > 1 and word and (glue or mark):
            joined[-1] += word
        else:
            joined.append(word)
        glue = mark
    last = joined[-1] if joined else ""
    cut = max(last.rfind(":"), last.rfind("=")) + 1
    return joined, last[:cut] if any(word in {":", "="} for word in words[: at + 1]) else ""

"""Write docs/trainers.md from the table of trainers' options: python docs/trainers.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gradalign.methods.aliases import listed, trainers

INTRODUCTION = """# What trainers' settings are called here

Generated from `gradalign/methods/aliases/trainers.yaml` by `python docs/trainers.py`; a test holds
it to it. `gradalign methods list --trainer verl` prints a part of it, with `--json` for programs. A
trainer's own file can be given as it is:

    gradalign score ... --method config:trainer=verl,path=run_opd.sh

The file may be YAML, JSON, TOML or a shell script. Of a script count `--key value`, `a.b.key=value`
and the variables it sets. A key counts under its whole dotted name or its last parts; what a file
leaves out has the trainer's default. `version=PART` takes the defaults of an older version. With
`trainer=trl` the keys of the file tell which of TRL's trainers is meant.

Directions are those of the first, on-policy step: importance ratios are 1 there, and clips of them
do nothing. `dr_grpo+NUMBER*METHOD` is a task reward beside the teacher; `dr_grpo` does not divide
by the group's deviation, and most trainers do. `{key}` stands for the value in the file. The rows
of a table are tried in order. Where the trainer's own names say another thing than it does, the
column "named as" has that: `gradalign lint` holds the two against each other.
"""


def text() -> str:
    """Return the page."""
    return "\n".join([INTRODUCTION, *(_section(record) for record in listed(trainers().values()))])


def _section(record: dict[str, Any]) -> str:
    lines = [f"## {record['trainer']}", "", f"{record['title']}.", ""]
    lines += ["| where | here | named as | what differs |", "| --- | --- | --- | --- |"]
    for spelling in record["spellings"]:
        here = f"`{spelling['method']}`" if spelling["method"] else "none"
        where = f"`{spelling['where']}`" if spelling["where"] != "always" else "always"
        named = f"`{spelling['promise']}`" if spelling["promise"] else ""
        cells = map(_cell, (where, here, named, spelling["note"]))
        lines.append(f"| {' | '.join(cells)} |")
    for version in record["versions"]:
        lines += ["", f"Defaults of {version['version']}, `{version['file']}`:"]
        values = [
            f"`{key}={_value(value)}`"
            + (
                f" ({version['lines'][key].removeprefix(version['file'])})"
                if key in version["lines"]
                else " (not read)"
            )
            for key, value in version["defaults"].items()
        ]
        lines.append(", ".join(values) + ".")
    if record["beside"]:
        beside = [
            f"`{one['key']}={_value(one['default'])}` (" + (one["line"] or "not read") + ")"
            for one in record["beside"].values()
        ]
        lines += ["", f"Beside the loss: {', '.join(beside)}."]
    lines += [
        "",
        "A file of it has one of: " + ", ".join(f"`{key}`" for key in record["keys"]) + ".",
    ]
    return "\n".join([*lines, ""])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(value: str) -> str:
    return value.replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name("trainers.md").write_text(text())

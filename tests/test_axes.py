"""The letters that end array names are those of the table in CONTRIBUTING.md, each listed once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import gradalign

ROOT = Path(gradalign.__file__).parent

TABLE = Path(__file__).parents[1] / "CONTRIBUTING.md"

NAME = re.compile(r"_?[a-z][a-z0-9_]*_((?:\d*[A-Z])+\d*)")
"""A name with axes: `p_NS`, `logits_1TV`, `total_B1`."""


def listed(text: str) -> list[str]:
    """Return the letters of a table of axes, in its order."""
    return re.findall(r"^\| `_(\w+)` \|", text, flags=re.MULTILINE)


def used(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each letter with a name that carries it: variables, attributes, fields, arguments."""
    for node in ast.walk(tree):
        for field in ("id", "attr", "arg"):
            name = getattr(node, field, None)
            if isinstance(name, str) and (match := NAME.fullmatch(name)):
                for letter in re.findall("[A-Z]", match[1]):
                    yield letter, name


def test_every_letter_is_listed_once():
    letters = listed(TABLE.read_text())
    assert len(letters) == len(set(letters))
    found: dict[str, str] = {}
    for path in sorted(ROOT.rglob("*.py")):
        for letter, name in used(ast.parse(path.read_text())):
            found.setdefault(letter, f"{path.relative_to(ROOT)}: {name}")
    assert not {letter: where for letter, where in found.items() if letter not in letters}
    assert not set(letters) - set(found), "listed, but no name carries it"


def test_letters_of_all_kinds_of_names_are_seen():
    text = (
        "class A:\n    p_N: int\ndef f(a_2NC, *, b_S): return x.y_TV, Plain_Q, CONST_R\nf(k_1L=1)"
    )
    assert {letter for letter, _ in used(ast.parse(text))} == set("NCSTVL")
    assert listed("| `_N` | nodes |\n| `_N` | names |\n| other | `_S` |") == ["N", "N"]

"""Loss functions as trainers ship them, read out of their wheels at pinned versions.

A trainer's package imports servers and GPU kernels, so it is not installed: single functions are
taken out of one source file and run with torch alone.
"""

from __future__ import annotations
import __future__

import ast
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.wheels import download, kept

PINS = {
    "verl": "0.9.1",
    "tinker-cookbook": "0.6.1",
    "ms-swift": "4.6.0",
    "skyrl": "0.3.0",
    "axolotl": "0.19.0",
    "torchrl": "0.14.1",
}
"""Versions that directions were compared with. TRL is installed: its version is an extra's."""


def functions(package: str, path: str, *names: str, **given: Any) -> list[Callable[..., Any]]:
    """Return functions of one file of a trainer's wheel.

    Args:
        package: a name of `PINS`.
        path: of the file in the wheel.
        names: functions at the top level of the file, or CLASS.METHOD.
        given: what else they look up, besides torch and each other.
    """
    tree = ast.parse(_source(package, path))
    namespace = {"torch": torch, "F": torch.nn.functional, **given}
    for name in names:
        found = _definition(tree, name)
        found.decorator_list = []
        module = ast.fix_missing_locations(ast.Module([found], []))
        code = compile(module, f"{package}/{path}", "exec", __future__.annotations.compiler_flag)
        exec(code, namespace)
    return [namespace[name.rpartition(".")[2]] for name in names]


def _definition(tree: ast.Module, name: str) -> ast.FunctionDef | ast.AsyncFunctionDef:
    body, (*outer, last) = tree.body, name.split(".")
    for part in outer:
        (holder,) = (n for n in body if isinstance(n, ast.ClassDef) and n.name == part)
        body = holder.body
    (found,) = (
        n for n in body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name == last
    )
    return found


@cache
def _source(package: str, path: str) -> str:
    wheel = f"{package.replace('-', '_')}-{PINS[package]}.whl"

    def make(to: Path) -> None:
        found = download(f"{package}=={PINS[package]}", to.parent)
        found.rename(to)
        found.parent.rmdir()

    with zipfile.ZipFile(kept(wheel, "at most 3 MB", make)) as archive:
        return archive.read(path).decode()

"""Tests use what gradalign offers; the rest that reaches into it is listed and may only shrink."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent

PRIVATE = re.compile(r"_[A-Za-z]\w*")

FOREIGN = {
    "_attn_implementation": "transformers' name of a model's attention",
    "_chunked_divergence_loss": "TRL's own loss, the truth of a preset",
    "_compute_iw_opd_loss": "TRL's own loss, the truth of a preset",
    "_compute_loss": "TRL's own loss, the truth of a preset",
    "_compute_server_forward_kl_loss": "TRL's own loss, the truth of a preset",
    "_compute_server_sparse_top_1_divergence_loss": "TRL's own loss, the truth of a preset",
    "_exit": "os._exit, which ends a forked process",
    "_jsd_loss_chunk": "TRL's own loss, the truth of a preset",
    "_metrics": "where TRL's trainers keep what they log",
    "_narrow_top1_actual_support": "TRL's own support of a loss, the truth of a preset",
    "_repr_html_": "the hook of notebooks, which is public",
}
"""Private by spelling, but not gradalign's."""

REST = {
    ("diagnostics/test_ranks.py", "_BLOCK"): "small blocks, so that there are several",
    ("executors/test_ray.py", "_StageWork"): "counts a stage's starts on Ray",
    ("executors/test_ray.py", "_start"): "counts a stage's starts on Ray",
    ("executors/test_ray.py", "_open"): "a worker's models, which must be closed",
    ("cli/test_reading_rescore.py", "_record"): "an interruption at the last step",
    ("models/test_distributions.py", "_copies_columns"): "makes a model take the other path",
    ("models/test_forward.py", "_LOGITS"): "a small bound, so that batches are split",
    ("report/test_docs.py", "_items"): "takes a listing's plugin out of the registry again",
    ("rollouts/test_sampler.py", "_DRAW_NUMBERS"): "a small bound, so that draws are split",
    ("rollouts/test_transformers_engine.py", "_LOGITS"): "a small bound, so that passes are split",
    ("rollouts/test_transformers_engine.py", "_ROOM_TOKENS"): "a small bound on the cache's room",
    ("rollouts/test_transformers_engine.py", "_batch"): "which cache the engine chose",
    ("rollouts/test_transformers_engine.py", "_call"): "which model call the engine lent",
    ("rollouts/test_transformers_engine.py", "_store"): "which cache the engine chose",
    ("rollouts/test_vllm_engine.py", "_spare"): "the worker that is kept for the next engine",
    ("test_verifier_failures.py", "_math_equal"): "a comparison that raises",
    ("test_verifiers.py", "_collect"): "an interruption while answers are collected",
}
"""Accesses that remain, by file and name, with what they are for. The list may only shrink."""


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield private names taken from an object, imported, or patched by their name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gradalign"):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("setattr", "delattr", "object")
        ):
            for given in node.args[:2]:
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    yield given.value.rsplit(".", 1)[-1]


def test_tests_use_what_is_public():
    found = {
        (str(path.relative_to(TESTS)), name)
        for path in TESTS.rglob("*.py")
        for name in private_names(ast.parse(path.read_text()))
        if PRIVATE.fullmatch(name) and name not in FOREIGN
    }
    assert found == set(REST)


def test_private_names_are_seen():
    text = "from gradalign.x import _a\nm._b\nself._c\np.setattr('gradalign.x._d', 1)\nm.__e__"
    found = {name for name in private_names(ast.parse(text)) if PRIVATE.fullmatch(name)}
    assert found == {"_a", "_b", "_d"}

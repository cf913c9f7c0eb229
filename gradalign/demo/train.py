"""Train the demo's models: `python -m gradalign.demo.train --out DIR`.

Deterministic: one thread, seeded, so that the same command on the same machine gives the same
weights bit for bit.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from types import MappingProxyType

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from gradalign.demo.addition import Problem, draw_problem, with_hint
from gradalign.demo.pupils import Care, write_solution, write_to_fit
from gradalign.demo.tokenizer import MAX_LENGTH, build_tokenizer

logger = logging.getLogger(__name__)

_IGNORED = -100


@dataclass(frozen=True)
class Role:
    """Everything that makes one of the bundled models.

    Attributes:
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads: the Qwen3
            architecture; heads are 32 wide, the least that vLLM's CPU attention takes.
        care: of the pupil whose unaided solutions it learns.
        hinted_care: of the pupil whose solutions with a hint it learns.
        steps: optimiser steps.
        learning_rate: peak of AdamW's rate, reached after 5 % of the steps, then a cosine to 0.
        plain, told_answer, told_solution: rows of each kind in every step's batch.
        false_share: share of the answers and solutions told that are false, and believed.
        seed: of the initial weights and of the training rows.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    care: Care
    hinted_care: Care
    steps: int
    learning_rate: float
    plain: int = 56
    told_answer: int = 40
    told_solution: int = 16
    false_share: float = 0.4
    seed: int = 0


ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "student": Role(
            hidden_size=48,
            intermediate_size=144,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            care=Care(drop=0.35, recall=0.3, phantom=0.05, slip=0.06, repair=0.4, miscopy=0.04),
            hinted_care=Care(drop=0.1),
            steps=1000,
            learning_rate=6e-3,
            seed=1,
        ),
        "strong": Role(
            hidden_size=80,
            intermediate_size=160,
            num_layers=3,
            num_heads=4,
            num_kv_heads=2,
            care=Care(),
            hinted_care=Care(),
            steps=600,
            learning_rate=4e-3,
            seed=2,
        ),
        "middle": Role(
            hidden_size=48,
            intermediate_size=96,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            care=Care(drop=0.15, recall=0.3, phantom=0.02, slip=0.03, repair=0.3, miscopy=0.02),
            hinted_care=Care(drop=0.1),
            steps=900,
            learning_rate=6e-3,
            seed=4,
        ),
        "weak": Role(
            hidden_size=32,
            intermediate_size=64,
            num_layers=2,
            num_heads=2,
            num_kv_heads=1,
            care=Care(drop=0.6, recall=0.2, phantom=0.1, slip=0.1, repair=0.1, miscopy=0.1),
            hinted_care=Care(drop=0.5),
            steps=600,
            learning_rate=8e-3,
            seed=3,
        ),
    }
)
"""The models by name. A further one is one more entry here."""


def training_rows(role: Role, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
    """Yield, for ever, one step's (prompt, response) rows.

    Plain ones, then those told the answer, then those told the solution.
    """
    while True:
        rows: list[tuple[str, str]] = []
        for _ in range(role.plain):
            problem = draw_problem(rng, held_out=False)
            rows.append((problem.prompt, write_solution(problem, role.care, rng)))
        for _ in range(role.told_answer):
            problem = draw_problem(rng, held_out=False)
            claim = _claim(problem, role.false_share, rng)
            rows.append(
                (with_hint(problem, claim), write_to_fit(problem, claim, role.hinted_care, rng))
            )
        for _ in range(role.told_solution):
            problem = draw_problem(rng, held_out=False)
            claim = _claim(problem, role.false_share, rng)
            solution = write_to_fit(problem, claim, Care(), rng)
            rows.append((with_hint(problem, solution), solution))
        yield rows


def _claim(problem: Problem, false_share: float, rng: random.Random) -> str:
    """Return the answer as told: mostly the true one, else one or all of its digits changed."""
    answer = problem.answer
    if rng.random() >= false_share:
        return answer
    if rng.random() < 0.5:
        low = 10 ** (len(answer) - 1)
        return str(rng.randrange(low, 10 * low))
    place = rng.randrange(len(answer))
    other = rng.choice([d for d in "0123456789" if d != answer[place] and (place or d != "0")])
    return answer[:place] + other + answer[place + 1 :]


def train(
    role: Role,
    *,
    steps: int | None = None,
    log_every: int = 0,
    rows: Callable[[Role, random.Random], Iterator[list[tuple[str, str]]]] = training_rows,
    tokenizer: PreTrainedTokenizerFast | None = None,
) -> Qwen3ForCausalLM:
    """Train one model and return it in evaluation mode.

    Args:
        role: what to train.
        steps: optimiser steps instead of the role's own, for a quick try.
        log_every: log the loss every so many steps; 0 for never.
        rows: the task: yields every step's rows, plain, told the answer, told the solution.
        tokenizer: of another vocabulary than the demo's.
    """
    steps = role.steps if steps is None else steps
    tokenizer = tokenizer or build_tokenizer()
    with _one_thread():
        model = _new_model(role, tokenizer)
        optimiser = torch.optim.AdamW(
            model.parameters(), lr=role.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda done: _rate(done, steps))
        batches = rows(role, random.Random(role.seed))
        for step in range(steps):
            loss = _accumulate_gradients(model, tokenizer, next(batches), role)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad(set_to_none=True)
            if log_every and (step + 1) % log_every == 0:
                logger.info("step %d of %d: loss %.4f nats per token", step + 1, steps, loss)
    return model.eval()


def export(
    model: Qwen3ForCausalLM, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None
) -> None:
    """Write weights (safetensors, float32), tokenizer and configuration for `from_pretrained`.

    Args:
        model: what `train` returned.
        folder: where to.
        tokenizer: the one that it was trained with; by default the demo's.
    """
    tokenizer = tokenizer or build_tokenizer()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _new_model(role: Role, tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=role.hidden_size,
        intermediate_size=role.intermediate_size,
        num_hidden_layers=role.num_layers,
        num_attention_heads=role.num_heads,
        num_key_value_heads=role.num_kv_heads,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        # The library's 0.02 is meant for widths in the thousands.
        initializer_range=1 / math.sqrt(role.hidden_size) / 2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(role.seed)
        return Qwen3ForCausalLM(config).train()


def _accumulate_gradients(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: list[tuple[str, str]],
    role: Role,
) -> float:
    """Add the gradient of the mean response-token loss over all rows; return that loss."""
    # The kinds differ in length: one batch each wastes least on padding.
    kinds = (role.plain, role.told_answer, role.told_solution)
    bounds = accumulate(kinds, initial=0)
    batches = [
        _tensors(tokenizer, rows[begin:end]) for begin, end in pairwise(bounds) if end > begin
    ]
    count = sum(int((labels_BT != _IGNORED).sum()) for _, labels_BT in batches)
    total = 0.0
    for ids_BT, labels_BT in batches:
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BTV[:, :-1].flatten(0, 1),
            labels_BT[:, 1:].flatten(),
            ignore_index=_IGNORED,
            reduction="sum",
        )
        torch.autograd.backward(loss / count)
        total += float(loss.detach())
    return total / count


def _tensors(
    tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, str]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and labels, both [rows, tokens], padded on the right; prompts are not learnt."""
    prompts = tokenizer([prompt for prompt, _ in rows])["input_ids"]
    responses = tokenizer([text for _, text in rows], add_special_tokens=False)["input_ids"]
    width = max(len(p) + len(r) for p, r in zip(prompts, responses, strict=True)) + 1
    ids_BT = torch.full((len(rows), width), tokenizer.pad_token_id)
    labels_BT = torch.full((len(rows), width), _IGNORED)
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        learnt = torch.tensor([*response, tokenizer.eos_token_id])
        stop = len(prompt) + len(learnt)
        ids_BT[row, : len(prompt)] = torch.tensor(prompt)
        ids_BT[row, len(prompt) : stop] = learnt
        labels_BT[row, len(prompt) : stop] = learnt
    return ids_BT, labels_BT


def _rate(done: int, steps: int) -> float:
    warm_up = max(1, steps // 20)
    if done < warm_up:
        return (done + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (done - warm_up) / max(1, steps - warm_up)))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: sums in a fixed order, the same weights every time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def main(arguments: list[str] | None = None) -> None:
    """Train the chosen models and write each to a folder of its own under `--out`."""
    parser = argparse.ArgumentParser(
        prog="python -m gradalign.demo.train", description="Train the bundled demo models."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write the models to")
    parser.add_argument("--role", choices=[*ROLES, "all"], default="all", help="which to train")
    parser.add_argument("--steps", type=int, default=None, help="instead of the role's own number")
    options = parser.parse_args(arguments)
    if options.steps is not None and options.steps < 1:
        parser.error("--steps must be at least 1")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ROLES if options.role == "all" else [options.role]:
        started = time.perf_counter()
        model = train(ROLES[name], steps=options.steps, log_every=100)
        export(model, options.out / name)
        logger.info(
            "%s: %d parameters, %.0f s, written to %s",
            name,
            sum(p.numel() for p in model.parameters()),
            time.perf_counter() - started,
            options.out / name,
        )


if __name__ == "__main__":
    main()

"""Training by TRL's own trainers, for the configurations whose method they implement.

`DistillationTrainer` is on-policy, and its beta of 0, 0.5 and 1 is forward KL, JSD and reverse KL;
`GRPOTrainer` with `loss_type="dr_grpo"`, unscaled rewards and no reference model is Dr. GRPO. Both
take an optimiser, and are given that of the plain loop. Sampling, batches, loss and gradient are
TRL's.
"""

from __future__ import annotations

import gc
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gradalign.questions import Prompt
from validity.pairs import Configuration, Pair, load_model, tokenizer_of
from validity.training import TrainSettings, Watch, training_questions

BETA = {"gkd:beta=0": 0.0, "gkd": 0.5, "opd": 1.0}
"""Methods that are `DistillationTrainer` at this beta; `opd` in its expected form."""


def implements(configuration: Configuration) -> bool:
    """Whether one of these trainers does it: the teacher another model, asked as the student is."""
    if configuration.method == "dr_grpo":
        return configuration.estimator == "sampled"
    asked_alike = configuration.teacher != "" and configuration.context == "none"
    expected = configuration.estimator == "expected"
    return asked_alike and expected and configuration.method in BETA


def train_with_trl(
    pair: Pair,
    configuration: Configuration,
    settings: TrainSettings,
    seed: int,
    watch: Watch = lambda step, model: None,
) -> torch.nn.Module:
    """Train a fresh copy of the student with TRL on the questions of the plain loop; return it.

    `watch` sees every step.

    Raises:
        ValueError: no trainer here implements the configuration.
    """
    if not implements(configuration):
        raise ValueError(f"TRL does not train {configuration.label}")
    from transformers import PrinterCallback, TrainerCallback

    class Watcher(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch(state.global_step, model.eval())
            model.train()

    model = load_model(pair.student, pair.dtype)
    with tempfile.TemporaryDirectory() as folder, quiet(), torch.random.fork_rng(devices=[]):
        made = _grpo if configuration.method == "dr_grpo" else _distillation
        trainer = made(pair, configuration, settings, seed, model, folder)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Watcher)
        trainer.train()
        del trainer
    gc.collect()  # a trainer is in circles, which keep models and optimisers for long
    return model.eval().requires_grad_(False)


def as_trl(prompt: Prompt) -> Any:
    """Return a prompt as TRL's data sets have it: text, or messages for the chat template."""
    if isinstance(prompt, str):
        return prompt
    return [{"role": message.role, "content": message.content} for message in prompt]


def _distillation(
    pair: Pair,
    configuration: Configuration,
    settings: TrainSettings,
    seed: int,
    model: torch.nn.Module,
    folder: str,
) -> Any:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    prompts = [
        as_trl(question.prompt)
        for question in training_questions(pair, settings, seed)
        for _ in range(settings.group)
    ]
    return DistillationTrainer(
        model=model,
        teacher_model=load_model(configuration.teacher_model(pair.student), pair.dtype),
        args=DistillationConfig(
            beta=BETA[configuration.method], **_common(pair, settings, seed, folder)
        ),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer_of(pair.student),
        optimizers=(settings.optimizer(model, seed), None),
    )


def _grpo(
    pair: Pair,
    configuration: Configuration,
    settings: TrainSettings,
    seed: int,
    model: torch.nn.Module,
    folder: str,
) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], gold: Sequence[str], **_: Any
    ) -> list[float]:
        return [
            pair.verify(text if isinstance(text, str) else text[0]["content"], answer)
            for text, answer in zip(completions, gold, strict=True)
        ]

    questions = training_questions(pair, settings, seed)
    return GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=GRPOConfig(
            loss_type="dr_grpo",
            scale_rewards="none",
            beta=0.0,
            num_generations=settings.group,
            steps_per_generation=settings.prompts // (pair.at_once or settings.prompts),
            mask_truncated_completions=False,
            **_common(pair, settings, seed, folder),
        ),
        train_dataset=Dataset.from_dict(
            {
                "prompt": [as_trl(question.prompt) for question in questions],
                "gold": [question.answer for question in questions],
            }
        ),
        processing_class=tokenizer_of(pair.student),
        optimizers=(settings.optimizer(model, seed), None),
    )


def _common(pair: Pair, settings: TrainSettings, seed: int, folder: str) -> dict[str, Any]:
    """Return what both configurations are told; nothing is logged, saved or clipped."""
    at_once = pair.at_once or settings.prompts
    return {
        "output_dir": folder,
        "per_device_train_batch_size": at_once * settings.group,
        "gradient_accumulation_steps": settings.prompts // at_once,
        "max_steps": settings.steps,
        "max_completion_length": pair.max_tokens,
        "temperature": 1.0,
        "learning_rate": settings.step_norm,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "shuffle_dataset": False,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": seed,
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what TRL says of vLLM versions and of models without a chat template."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

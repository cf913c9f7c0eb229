"""The real pair: SmolLM2-135M-Instruct on sums of reasoning-gym's `chain_sum`.

As it stands the model hardly solves them, so it is first taught the form of an answer by a few
steps of supervised fine-tuning, as people do before on-policy distillation. Its teachers are
trained likewise: `better` on more right solutions, `worse` on solutions whose carries are lost;
`original` is the model as it was published, which answers in words of its own. Everything is made
by TRL's SFTTrainer, seeded, from questions that neither scoring, training nor evaluation uses.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from gradalign.contexts import registry as contexts
from gradalign.questions import Message, Question
from gradalign.reasoning_gym_data import dataset_of
from validity.pairs import FORWARD, REVERSE, Configuration, Pair, tokenizer_of

TASK = "chain_sum:min_terms=3,max_terms=3,min_digits=1,max_digits=2,seed={seed},size={size}"
VERIFIER = r"regex:Answer: (-?[0-9]+)$"
MAX_RESPONSE_TOKENS = 40
RULE = (
    "Add and subtract from left to right, one step per line, mind every carry, and write the "
    "result after Answer."
)
CONTEXTS = ("none", "answer", "solution", "wrong-answer", "other-answer")
"""Those of the tool's own that teachers are given, beside the rule."""

_TERM = re.compile(r"([+-]?) ?(\d+)")
_KINDS = 4
_HELD_OUT, _TAUGHT = 0, 1
"""Of four kinds of questions, told apart by a hash: held out, for the making of models, and two
for scoring and on-policy training."""


def steps_of(expression: str) -> list[tuple[int, str, int]]:
    """Split a sum into its steps: what there is, the sign, and what comes to it."""
    (_, first), *others = _TERM.findall(expression)
    total, steps = int(first), []
    for sign, number in others:
        steps.append((total, sign, int(number)))
        total += int(sign + number)
    return steps


def without_carry(total: int, sign: str, number: int) -> int:
    """Add or subtract digit by digit and forget what is carried or borrowed."""
    if total < 0 or (sign == "-" and number > total):
        return total + int(sign + str(number))
    move = 1 if sign == "+" else -1
    digits = [
        (int(one) + move * int(other)) % 10
        for one, other in zip(f"{total:03d}", f"{number:03d}", strict=True)
    ]
    return int("".join(map(str, digits)))


def write_solution(expression: str, *, carries: bool = True) -> str:
    """Write a sum step by step, and its answer last.

    Args:
        expression: such as `4 + 17 - 5`.
        carries: whether they are minded.
    """
    lines, total = [], 0
    for place, (had, sign, number) in enumerate(steps_of(expression)):
        have = had if place == 0 else total
        total = have + int(sign + str(number)) if carries else without_carry(have, sign, number)
        lines.append(f"{have} {sign} {number} = {total}")
    return "\n".join([*lines, f"Answer: {total}"])


def verify(text: str, answer: str) -> float:
    """Return 1.0 if the response ends in `Answer: ` and the answer."""
    found = re.search(r"Answer: (-?[0-9]+)$", text)
    return float(found is not None and found.group(1) == answer)


def _kind(expression: str) -> int:
    digest = hashlib.blake2b(expression.encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") % _KINDS


def _entries(seed: int) -> Iterator[dict[str, Any]]:
    """Entries of the generator with a seed, for ever; it draws entry i with its seed plus i."""
    data = dataset_of(TASK.format(seed=1_000_000 * (seed + 1), size=1_000_000))
    for index in range(len(data)):
        yield data[index]


@lru_cache(maxsize=32)
def draw(count: int, seed: int, kinds: tuple[int, ...]) -> tuple[Question, ...]:
    """Draw different questions of some kinds, each with the prompts of all contexts."""
    found: dict[str, Question] = {}
    for entry in _entries(seed):
        if len(found) == count:
            break
        expression = str(entry["metadata"]["expression"])
        if _kind(expression) in kinds:
            found[expression] = Question(
                id=expression,
                prompt=(Message("user", str(entry["question"])),),
                answer=str(entry["answer"]),
                solution=write_solution(expression),
            )
    questions = list(found.values())
    made = {name: contexts.get(name, questions) for name in CONTEXTS}
    return tuple(
        replace(
            question,
            contexts={
                **{name: made[name].prompt(question, None, ()) for name in CONTEXTS},
                "rule": (Message("system", RULE), *question.prompt),
            },
        )
        for question in questions
    )


def _questions(count: int, seed: int, held_out: bool) -> Sequence[Question]:
    return draw(count, seed, (_HELD_OUT,) if held_out else (2, 3))


@dataclass(frozen=True)
class Lesson:
    """How a model is made.

    Attributes:
        start: `original`, or the lesson whose model it starts from.
        steps: of `BATCH` solutions each.
        learning_rate: peak of AdamW's, after which it falls to 0 linearly.
        carries: whether the solutions mind them.
        seed: of the questions and of their order.
    """

    start: str
    steps: int
    learning_rate: float
    carries: bool
    seed: int


LESSONS = {
    "student": Lesson("original", 30, 1e-4, True, 41),
    "better": Lesson("student", 80, 1e-4, True, 42),
    "worse": Lesson("student", 40, 1e-4, False, 43),
}
BATCH = 16


def make_models(
    original: Path, folder: Path, say: Callable[[str], None], lessons: dict[str, Lesson] = LESSONS
) -> None:
    """Make the models that `folder` lacks."""
    for name, lesson in lessons.items():
        if not (folder / name / "tokenizer_config.json").is_file():
            start = original if lesson.start == "original" else folder / lesson.start
            teach(start, folder / name, lesson)
            say(f"made {name}")


def teach(start: Path, end: Path, lesson: Lesson) -> None:
    """Fine-tune a model on worked solutions and save it in bfloat16."""
    import tempfile

    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from validity.trl_training import quiet

    model, tokenizer = load(start), tokenizer_of(str(start))
    questions = draw(lesson.steps * BATCH, lesson.seed, (_TAUGHT,))
    rows = [
        {
            "prompt": [{"role": "user", "content": question.prompt[0].content}],
            "completion": [
                {
                    "role": "assistant",
                    "content": write_solution(question.id, carries=lesson.carries),
                }
            ],
        }
        for question in questions
    ]
    with tempfile.TemporaryDirectory() as work, quiet(), torch.random.fork_rng(devices=[]):
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=work,
                per_device_train_batch_size=BATCH,
                max_steps=lesson.steps,
                learning_rate=lesson.learning_rate,
                lr_scheduler_type="linear",
                completion_only_loss=True,
                gradient_checkpointing=False,
                bf16=True,
                use_cpu=True,
                dataloader_pin_memory=False,
                seed=lesson.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        trainer.train()
    end.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(end)
    tokenizer.save_pretrained(end)


def load(folder: Path) -> Any:
    """Load a model in float32, as AdamW's steps need it."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def smollm2(original: Path, folder: Path) -> Pair:
    """The pair, with its models in `folder`.

    Args:
        original: the model as it was published.
        folder: of those that are made of it.
    """
    better, worse = str(folder / "better"), str(folder / "worse")
    crossed = [
        *((better, method) for method in (REVERSE, FORWARD)),
        *((worse, method) for method in (REVERSE, FORWARD)),
        (str(original), REVERSE),
        *(("self+solution", method) for method in (REVERSE, FORWARD)),
        *((f"self+{context}", REVERSE) for context in CONTEXTS[1:] if context != "solution"),
        ("self+rule", REVERSE),
    ]
    return Pair(
        name="smollm2",
        student=str(folder / "student"),
        questions=_questions,
        verify=verify,
        verifier=VERIFIER,
        max_tokens=MAX_RESPONSE_TOKENS,
        configurations=(
            *(Configuration(teacher, method) for teacher, method in crossed),
            Configuration("", "dr_grpo", "sampled"),
            Configuration("", "random"),
        ),
        tuned_on=Configuration(better, REVERSE),
        dtype="bfloat16",
        at_once=2,
    )

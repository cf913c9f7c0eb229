"""The named benchmarks: how each one's rows become questions."""

from __future__ import annotations

import hashlib
import re
from functools import partial

from gradalign.questions import LABELS, Question
from gradalign.tasks.base import TaskSource
from gradalign.tasks.benchmark_rows import Benchmark, Row
from gradalign.tasks.hub import HubTask, parse_options
from gradalign.tasks.registry import TASKS
from gradalign.tasks.row_checks import text_of
from gradalign.verifiers.reading.boxed import last_boxed

BOX_INSTRUCTION = "Think step by step and end with the final answer inside \\boxed{}."
LETTER_INSTRUCTION = (
    'Think step by step and end with a line "Answer: X", where X is the letter of your choice.'
)
YES_NO_INSTRUCTION = 'Think step by step and end with a line "Answer: yes" or "Answer: no".'

_CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


def gsm8k(row: Row) -> Question:
    """Turn a row of openai/gsm8k (question, answer with "#### N" at its end)."""
    work, mark, final = row.text("answer").rpartition("####")
    answer = final.strip().replace(",", "")
    if not mark or not answer:
        raise row.error("has no '#### N' in its answer", "GSM8K rows end with the final number.")
    work = _CALCULATOR.sub("", work).strip()
    return Question(
        id="",
        prompt=row.text("question"),
        answer=answer,
        # Ends as the instruction asks, so that it can also serve as a demonstration.
        solution=f"{work}\n\\boxed{{{answer}}}",
    )


def math500(row: Row) -> Question:
    """Turn a row of HuggingFaceH4/MATH-500 (problem, solution, answer, subject, level)."""
    return Question(
        id="",
        prompt=row.text("problem"),
        answer=_answer(row, "answer"),
        solution=row.optional_text("solution"),
        metadata=row.metadata("subject", "level"),
    )


def aime(row: Row) -> Question:
    """Turn a row of an AIME data set; the hub's copies spell the columns in several ways."""
    return Question(
        id="",
        prompt=row.text("problem", "Problem", "question"),
        answer=_integer(row, "answer", "Answer"),
        solution=_boxed_solution(row),
        metadata=row.metadata("url", "year"),
    )


def deepmath(row: Row) -> Question:
    """Turn a row of zwhe99/DeepMath-103K (question, final_answer, three R1 solutions)."""
    return Question(
        id="",
        prompt=row.text("question"),
        answer=_answer(row, "final_answer"),
        solution=row.optional_text("r1_solution_1", "r1_solution_2", "r1_solution_3"),
        metadata=row.metadata("difficulty", "topic"),
    )


def mmlu(row: Row) -> Question:
    """Turn a row of cais/mmlu (question, choices, answer as an index, subject)."""
    choices = row.get("choices")
    if not isinstance(choices, list) or len(choices) < 2:
        raise row.error("has no list of choices", "MMLU rows have four.")
    texts = tuple((text_of(choice, f"{row.where}: a choice") or "").strip() for choice in choices)
    index = row.get("answer")
    # The hub stores a class label; exported files often have the letter.
    if isinstance(index, str) and index.strip() in LABELS[: len(texts)]:
        index = LABELS.index(index.strip())
    elif isinstance(index, float) and index.is_integer():
        index = int(index)  # a column with a missing value is stored as floats
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(texts):
        raise row.error(f"has the answer {index!r}", "Give the index or letter of a choice.")
    return Question(
        id="",
        prompt=_with_choices(row.text("question"), texts),
        answer=LABELS[index],
        choices=texts,
        metadata=row.metadata("subject"),
    )


def boolq(row: Row) -> Question:
    """Turn a row of google/boolq (question, passage, answer as a truth value)."""
    truth = row.get("answer")
    if not isinstance(truth, bool):
        raise row.error(f"has the answer {truth!r}", "BoolQ answers are true or false.")
    question = row.text("question").rstrip("?")
    return Question(
        id="",
        prompt=f"{row.text('passage')}\n\nQuestion: {question}?",
        answer="yes" if truth else "no",
        choices=("yes", "no"),
    )


def gpqa(row: Row) -> Question:
    """Turn a row of Idavidrein/gpqa (Question, Correct Answer, Incorrect Answer 1 to 3).

    The order of the options depends on the question's text only.
    """
    question = row.text("Question")
    correct = row.text("Correct Answer")
    options = [correct, *(row.text(f"Incorrect Answer {number}") for number in (1, 2, 3))]
    order = sorted(range(4), key=lambda index: _hash(f"{question}\x00{index}"))
    texts = tuple(options[index] for index in order)
    return Question(
        id="",
        prompt=_with_choices(question, texts),
        answer=LABELS[order.index(0)],
        choices=texts,
        solution=row.optional_text("Explanation"),
        metadata=row.metadata("Subdomain", "High-level domain"),
    )


BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            "gsm8k",
            "grade-school word problems (openai/gsm8k)",
            "openai/gsm8k",
            "main",
            "test",
            "math",
            gsm8k,
            BOX_INSTRUCTION,
            training_split="train",
        ),
        Benchmark(
            "math",
            "competition mathematics, 500 problems (HuggingFaceH4/MATH-500)",
            "HuggingFaceH4/MATH-500",
            None,
            "test",
            "math",
            math500,
            BOX_INSTRUCTION,
            ("unique_id",),
        ),
        Benchmark(
            "aime24",
            "AIME 2024, 30 problems (HuggingFaceH4/aime_2024)",
            "HuggingFaceH4/aime_2024",
            None,
            "train",
            "math",
            aime,
            BOX_INSTRUCTION,
            ("id", "ID"),
        ),
        Benchmark(
            "aime25",
            "AIME 2025, 30 problems (math-ai/aime25)",
            "math-ai/aime25",
            None,
            "test",
            "math",
            aime,
            BOX_INSTRUCTION,
            ("id", "ID"),
        ),
        Benchmark(
            "mmlu",
            "multiple choice over 57 subjects (cais/mmlu, all)",
            "cais/mmlu",
            "all",
            "test",
            "choice",
            mmlu,
            LETTER_INSTRUCTION,
            training_split="auxiliary_train",
        ),
        Benchmark(
            "boolq",
            "yes or no from a passage (google/boolq)",
            "google/boolq",
            None,
            "validation",
            "choice",
            boolq,
            YES_NO_INSTRUCTION,
            training_split="train",
        ),
        Benchmark(
            "gpqa-diamond",
            "graduate-level science, 198 questions (Idavidrein/gpqa, gated)",
            "Idavidrein/gpqa",
            "gpqa_diamond",
            "train",
            "choice",
            gpqa,
            LETTER_INSTRUCTION,
            ("Record ID",),
            gated=True,
        ),
        Benchmark(
            "deepmath",
            "hard mathematics with solutions (zwhe99/DeepMath-103K)",
            "zwhe99/DeepMath-103K",
            None,
            "train",
            "math",
            deepmath,
            BOX_INSTRUCTION,
            training_split="train",
        ),
    )
}


def path_of(spec: str) -> str | None:
    """Return the path in a benchmark's name, such as `gsm8k:path=FILE`; None if there is none."""
    name, _, argument = spec.partition(":")
    return parse_options(name, argument).path if name in BENCHMARKS else None


def _answer(row: Row, *names: str) -> str | None:
    """Return a final answer without the box or the dollar signs that some rows put around it."""
    text = text_of(row.get(*names), f"{row.where}: the answer")
    if text is None:
        return None
    inner = last_boxed(text)
    text = (text if inner is None else inner).strip()
    if len(text) > 2 and text[0] == text[-1] == "$" and "$" not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _integer(row: Row, *names: str) -> str | None:
    """Return an AIME answer: a whole number from 0 to 999, without leading zeros."""
    text = _answer(row, *names)
    if text is not None and text.isascii() and text.isdecimal():
        return text.lstrip("0") or "0"
    return text


def _boxed_solution(row: Row) -> str | None:
    """Return a worked solution; some copies of AIME have the bare answer in that column."""
    text = row.optional_text("solution", "Solution")
    return None if text is None or re.fullmatch(r"\$?\d{1,3}\$?", text) else text


def _with_choices(question: str, choices: tuple[str, ...]) -> str:
    listed = "\n".join(f"{label}) {text}" for label, text in zip(LABELS, choices, strict=False))
    return f"{question}\n\n{listed}"


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()


for _name, _benchmark in BENCHMARKS.items():
    TASKS.register(_name)(
        TaskSource(
            _benchmark.description,
            partial(HubTask, _benchmark),
            extra="tasks",
            example=_name,
            split=_benchmark.split,
            evaluation=_benchmark.evaluation(_benchmark.split) is not None,
        )
    )

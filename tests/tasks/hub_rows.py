"""Ten rows for each named task, in the columns and types of the hub's data sets.

The texts are our own; the quirks are the real ones (calculator marks and thousands commas in
GSM8K, answers as class labels in MMLU, blanks around GPQA's options, and so on).
"""

from __future__ import annotations

from typing import Any

Rows = list[dict[str, Any]]

_SUMS = [
    (3, 4),
    (12, 7),
    (250, 750),
    (9, 90),
    (1500, 2600),
    (1, 1),
    (48, 24),
    (5, 0),
    (33, 67),
    (8, 13),
]

GSM8K: Rows = [
    {
        "question": f"Ada has {a} stamps and buys {b} more. How many stamps has she now?",
        "answer": f"She adds the two: {a} + {b} = <<{a}+{b}={a + b}>>{a + b} stamps.\n"
        f"#### {a + b:,}",
    }
    for a, b in _SUMS
]

MATH: Rows = [
    {
        "problem": problem,
        "solution": f"One finds $\\boxed{{{answer}}}$.",
        "answer": answer,
        "subject": "Algebra",
        "level": level,
        "unique_id": f"test/algebra/{index}.json",
    }
    for index, (problem, answer, level) in enumerate(
        [
            ("What is half of one?", "\\frac{1}{2}", 1),
            ("Expand $(x+1)^2$.", "x^2+2x+1", 2),
            ("Write $(0,3)$ in polar coordinates.", "\\left( 3, \\frac{\\pi}{2} \\right)", 2),
            ("Simplify $\\sqrt{12}$.", "2\\sqrt{3}", 3),
            ("Who ran fastest, Evelyn or Bob?", "\\text{Evelyn}", 2),
            ("A right angle has how many degrees?", "90^\\circ", 1),
            ("Solve $x^2=4$ for all $x$.", "-2,2", 3),
            ("Give the interval of $x$ with $0<x\\le 1$.", "(0,1]", 4),
            ("Multiply out $p-q$ times one.", "p - q", 1),
            ("How much is $10^4+1$?", "10001", 1),
        ]
    )
]

AIME24: Rows = [
    {
        "id": 60 + index,
        "problem": f"Find the remainder when ${7 + index}^3$ is divided by $1000$.",
        "solution": f"It is $\\boxed{{{(7 + index) ** 3 % 1000:03d}}}$.",
        "answer": f"{(7 + index) ** 3 % 1000:03d}",
        "url": "https://example.org/aime",
        "year": "2024",
    }
    for index in range(10)
]

AIME24_OTHER: Rows = [
    {
        "ID": f"2024-I-{row['id']}",
        "Problem": row["problem"],
        "Solution": row["solution"],
        "Answer": int(row["answer"]),
    }
    for row in AIME24
]

AIME25: Rows = [
    {
        "problem": f"Find the sum of the first ${index + 3}$ odd numbers.",
        "answer": str((index + 3) ** 2),
        "id": str(index),
    }
    for index in range(10)
]

MMLU: Rows = [
    {
        "question": f"Which number is {number} plus one?",
        "subject": "elementary_mathematics",
        "choices": [str(number + step) for step in (0, 1, 2, 3)][number % 4 :]
        + [str(number + step) for step in (0, 1, 2, 3)][: number % 4],
        "answer": (1 - number) % 4,
    }
    for number in range(10)
]

BOOLQ: Rows = [
    {
        "question": f"is {number} an even number",
        "answer": number % 2 == 0,
        "passage": f"Even numbers are multiples of two. This passage is about {number}.",
    }
    for number in range(10)
]

GPQA: Rows = [
    {
        "Record ID": f"rec{index:05d}",
        "Question": f"Which particle has the charge {index} in units of e?\n",
        "Correct Answer": f"particle number {index}\n",
        "Incorrect Answer 1": f"particle number {index + 1}",
        "Incorrect Answer 2": f" particle number {index + 2}",
        "Incorrect Answer 3": f"particle number {index + 3}",
        "Explanation": f"Count to {index}.",
        "Subdomain": "Physics (general)",
        "High-level domain": "Physics",
    }
    for index in range(10)
]

DEEPMATH: Rows = [
    {
        "question": f"Evaluate the limit of $(1+{index}/n)^n$ as $n$ grows.",
        "final_answer": "1" if index == 0 else "e" if index == 1 else f"e^{{{index}}}",
        "difficulty": 4.5,
        "topic": "Mathematics -> Calculus -> Limits",
        "r1_solution_1": f"First way, power {index}.",
        "r1_solution_2": f"Second way, power {index}.",
        "r1_solution_3": f"Third way, power {index}.",
    }
    for index in range(10)
]

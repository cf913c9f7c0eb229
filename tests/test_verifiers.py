"""Verdicts on right, wrong and odd responses, and a pool that nothing can stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gradalign.errors import TaskError, UnknownNameError, UsageError, VerifierError
from gradalign.questions import Message, Question
from gradalign.verifiers import Verdict, VerifierPool, get
from gradalign.verifiers.judge import judge
from gradalign.verifiers.reading.boxed import last_boxed
from tests.requires import require

OPTIONS = ("Paris", "London town", "Rome", "A dog")


def question(answer: str | None, choices: tuple[str, ...] = ()) -> Question:
    return Question("q", "What?", answer=answer, choices=choices)


@pytest.mark.parametrize(
    ("answer", "text", "reward"),
    [
        ("12", "12", 1.0),
        (" 12 ", "\n12\t", 1.0),
        ("12", "12.", 0.0),
        ("12", "", 0.0),
        ("12", "１２", 0.0),
        ("a\x00b", "a\x00b", 1.0),
    ],
)
def test_exact(answer: str, text: str, reward: float) -> None:
    assert get("exact")(text, question(answer)) == reward


@pytest.mark.parametrize(
    ("pattern", "text", "reward"),
    [
        (r"=(\d+)", "1+1=3, no, =2", 1.0),
        (r"=(\d+)", "=2 and then =3", 0.0),
        (r"= *(\S+)$", "x = 2", 1.0),
        (r"=(\d+)", "nothing", 0.0),
        (r"(?:=(\d+)|none)", "=2 none", 0.0),  # the last match has no group 1
        (r"a:b=(\d)", "a:b=2", 1.0),
    ],
)
def test_regex_takes_group_one_of_the_last_match(pattern: str, text: str, reward: float) -> None:
    assert get(f"regex:{pattern}")(text, question("2")) == reward


@pytest.mark.parametrize(
    ("text", "reward"),
    [
        ("B", 1.0),
        ("Thinking...\n(B)", 1.0),
        ("B.", 1.0),
        ("**B**", 1.0),
        ("Answer: B", 1.0),
        ("**Answer:** B", 1.0),
        ("Answer:\n\nB", 1.0),
        ("the answer is (B).", 1.0),
        ("The answer is B) London town", 1.0),
        ("Answer: B, London town", 1.0),
        ("Answer: option B", 1.0),
        ("Answer: London town", 1.0),
        ("\\boxed{\\text{B}} is it", 1.0),
        ("Answer: A\nno:\nAnswer: B", 1.0),
        ("Answer: B\nno:\nAnswer: A", 0.0),
        ("\\boxed{A} or rather \\boxed{B}", 1.0),
        ("A dog", 0.0),
        ("A) London town", 0.0),
        ("Answer: B, C", 0.0),
        ("B or C", 0.0),
        ("Answer: b", 1.0),
        ("Answer: Bob", 0.0),
        ("Answer: E", 0.0),
        ("", 0.0),
        ("Answer:", 0.0),
        ("The options are A) Paris and", 0.0),
        ("\\boxed{B", 0.0),
    ],
)
def test_choice(text: str, reward: float) -> None:
    verifier = get("choice")
    assert verifier(text, question("B", OPTIONS)) == reward
    assert verifier(text, question("london  TOWN", OPTIONS)) == reward


def test_choice_letter_goes_before_text() -> None:
    swapped = question("A", ("B", "A"))
    assert get("choice")("Answer: A", swapped) == 1.0
    assert get("choice")("Answer: B", swapped) == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question("B"), "no choices"),
        (question("E", OPTIONS), "none of its choices"),
        (question("x", ("y",) * 27), "27 choices"),
    ],
)
def test_choice_checks_its_row(row: Question, message: str) -> None:
    with pytest.raises(TaskError, match=message):
        get("choice").check(row)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("\\boxed{1} \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed {3}", "3"),
        ("\\fbox{3}", "3"),
        ("\\boxed{1} and \\boxed{2", None),
        ("\\boxed", None),
        ("\\boxed{a\\", None),
        ("nothing", None),
    ],
)
def test_last_boxed(text: str, inside: str | None) -> None:
    assert last_boxed(text) == inside


@pytest.mark.parametrize(
    ("answer", "text", "reward"),
    [
        ("\\frac{1}{2}", "so \\boxed{0.5}", 1.0),
        ("\\frac{1}{2}", "so \\boxed{\\dfrac12}", 1.0),
        ("\\frac{1}{2}", "so \\boxed{2/4}", 1.0),
        ("\\frac{1}{2}", "so \\boxed{0.51}", 0.0),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", 1.0),
        ("x^2+2x+1", "\\boxed{(x-1)^2}", 0.0),
        ("(3, \\frac{\\pi}{2})", "\\boxed{(3,\\pi/2)}", 1.0),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", 1.0),
        ("2\\sqrt{3}", "\\boxed{\\sqrt{12}}", 1.0),
        ("1000", "\\boxed{1,000}", 1.0),
        ("90^\\circ", "\\boxed{90}", 1.0),
        ("5", "\\boxed{x=5}", 1.0),
        ("33", "\\boxed{033}", 1.0),
        ("12", "\\boxed{\uff11\uff12}", 1.0),
        ("12", "\\boxed{\u0661\u0662}", 1.0),
        ("\\text{Evelyn}", "\\boxed{Evelyn}", 1.0),
        ("\\text{even}", "\\boxed{odd}", 0.0),
        ("6", "\\boxed{5}, no, \\boxed{6}", 1.0),
        ("5", "\\boxed{5}, no, \\boxed{6}", 0.0),
        ("5", "the answer is 5", 1.0),
        ("5", "\\boxed{5} and then \\boxed{", 0.0),
        ("5", "\\boxed{}", 0.0),
        ("5", "\\boxed{4,5}", 0.0),
        ("5", "", 0.0),
        ("5", "\\boxed{\x00\x07}", 0.0),
    ],
)
def test_math(answer: str, text: str, reward: float) -> None:
    require("math_verify")
    assert get("math")(text, question(answer)) == reward


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("exakt", UnknownNameError, "choice, demo, exact, math"),
        ("exact:2", UsageError, "no argument"),
        ("math:2", UsageError, "no argument '2'"),
        ("regex", UsageError, "no pattern"),
        ("regex:(", UsageError, "unterminated"),
        ("regex:abc", UsageError, "no group"),
        ("no_such_module:function", UnknownNameError, "no_such_module"),
        ("json:nothing", UnknownNameError, "nothing"),
        ("json:__doc__", UsageError, "cannot be called"),
        ("demo:subtraction", UnknownNameError, "subtraction"),
    ],
)
def test_unusable_specs(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        get(spec)


def test_answers_are_demanded_only_by_verifiers_that_compare() -> None:
    assert get("exact").needs_answer
    assert get("regex:(.)").needs_answer
    assert not get("operator:contains").needs_answer


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (0.25, Verdict(0.25)),
        (True, Verdict(1.0)),
        (1, Verdict(1.0)),
        (2, Verdict(None, "out_of_range", "2")),
        (-0.1, Verdict(None, "out_of_range", "-0.1")),
        (float("nan"), Verdict(None, "not_a_number", "nan")),
        (None, Verdict(None, "not_a_number", "NoneType None")),
        ("1", Verdict(None, "not_a_number", "str '1'")),
    ],
)
def test_judge(value: object, verdict: Verdict) -> None:
    import numpy as np

    from gradalign.verifiers import FunctionVerifier

    assert judge(FunctionVerifier(lambda text, q: value), "", question("1")) == verdict  # type: ignore[arg-type, return-value]
    half = FunctionVerifier(lambda text, q: np.float32(0.5))  # type: ignore[arg-type, return-value]
    assert judge(half, "", question("1")) == Verdict(0.5)


HOSTILE = """
import os, subprocess, sys, time


def verify(text, question):
    print("noise on standard output")
    if text == "raise":
        raise RuntimeError("on purpose")
    if text == "exit":
        sys.exit(3)
    if text == "die":
        os._exit(3)
    if text == "hang":
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    if text == "child":
        process = subprocess.Popen(["sleep", "600"])
        with open(question.metadata["file"], "w") as file:
            file.write(str(process.pid))
        time.sleep(600)
    if text == "two":
        return 2
    if text == "none":
        return None
    if text == "modules":
        return float(not {"torch", "vllm", "transformers"} & set(sys.modules))
    if text == "count":
        with open(question.metadata["file"], "a") as file:
            file.write("x")
    if text == "input":
        input()
    return float(question.answer == "1")
"""


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A verifier of a user's own that does whatever the response says."""
    (tmp_path / "hostile_verifier.py").write_text(HOSTILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hostile_verifier", raising=False)
    return "hostile_verifier:verify"


def test_pool_counts_failures_and_keeps_every_other_verdict(hostile: str) -> None:
    right, wrong = question("1"), question("0")
    texts = ["raise", "fine", "hang", "fine", "die", "two", "none", "exit", "fine", "hang", "input"]
    items = [(text, right) for text in texts] + [("fine", wrong)] * 3
    begin = time.monotonic()
    with VerifierPool(hostile, num_workers=2, timeout_seconds=0.7) as pool:
        verdicts = pool.score(items)
    assert time.monotonic() - begin < 30
    kinds = [verdict.error_kind for verdict in verdicts]
    assert kinds == [
        "raised",
        None,
        "timeout",
        None,
        "crashed",
        "out_of_range",
        "not_a_number",
        "raised",
        None,
        "timeout",
        "raised",
        *[None] * 3,
    ]
    rewards = [verdict.reward for verdict in verdicts]
    missing = None
    assert rewards[:8] == [missing, 1, missing, 1, missing, missing, missing, missing]
    assert rewards[8:] == [1, missing, missing, 0, 0, 0]
    assert pool.failures == {
        "raised": 3,
        "timeout": 2,
        "crashed": 1,
        "out_of_range": 1,
        "not_a_number": 1,
    }
    assert pool.examples["raised"] == "RuntimeError: on purpose"


def test_many_hangs_with_few_workers_are_all_replaced(hostile: str) -> None:
    # Different questions, so that each hang is verified for itself.
    items = [("hang", Question(f"q{i}", "?", answer="1")) for i in range(6)]
    with VerifierPool(hostile, num_workers=1, timeout_seconds=0.2) as pool:
        verdicts = pool.score([*items, ("fine", question("1"))])
    assert [verdict.error_kind for verdict in verdicts] == ["timeout"] * 6 + [None]
    assert pool.failures["timeout"] == 6


def test_order_is_kept_over_many_batches_and_calls(hostile: str) -> None:
    questions = [Question(str(i), "?", answer=str(i % 3)) for i in range(700)]
    with VerifierPool(hostile, num_workers=3) as pool:
        for _ in range(2):
            verdicts = pool.score([(f"text {q.id}", q) for q in questions])
            assert [verdict.reward for verdict in verdicts] == [
                float(i % 3 == 1) for i in range(700)
            ]
        assert pool.score([]) == []
    assert not pool.failures


def test_equal_pairs_are_verified_once(hostile: str, tmp_path: Path) -> None:
    file = tmp_path / "calls"

    def row() -> Question:  # equal, but another object each time
        return Question("a", "?", answer="1", metadata={"file": str(file)})

    with VerifierPool(hostile) as pool:
        pool.score([("count", row()) for _ in range(5)])
        pool.score([("count", row())])
        other = Question("b", "?", answer="1", metadata={"file": str(file)})
        pool.score([("count", other)])
    assert file.read_text() == "xx"


def test_what_a_verifier_started_ends_with_it(hostile: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    row = Question("a", "?", answer="1", metadata={"file": str(file)})
    with VerifierPool(hostile, timeout_seconds=1.0) as pool:
        assert pool.score([("child", row)])[0].error_kind == "timeout"
    assert _gone(int(file.read_text()))


def test_workers_import_neither_torch_nor_transformers(hostile: str) -> None:
    import torch  # noqa: F401  (the pool's own process has it)

    with VerifierPool(hostile) as pool:
        assert pool.score([("modules", question("1"))]) == [Verdict(1.0)]


def test_question_reaches_the_worker_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "echo_verifier.py").write_text(
        "def verify(text, question):\n    raise ValueError(repr(question)[:190])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    row = Question(
        "\u00e9",
        (Message("user", "\U0001f600 \x01"),),
        choices=("a",),
        contexts={"c": "d"},
        metadata={"n": [1, None, {"k": 0.5}]},
    )
    with VerifierPool("echo_verifier:verify") as pool:
        (verdict,) = pool.score([("x", row)])
    assert verdict.detail == f"ValueError: {row!r}"[: len(verdict.detail)]
    assert len(verdict.detail) > 100


def test_lone_surrogates_and_megabytes_get_through(hostile: str) -> None:
    long = Question("long", "p" * 1_000_000, answer="1")
    texts = ["\udc80", "", "\x00", "x" * 1_000_000, "\u0661"]
    with VerifierPool(hostile) as pool:
        assert [verdict.reward for verdict in pool.score([(text, long) for text in texts])] == [
            1.0
        ] * 5


def test_interrupted_call_leaves_no_answers_for_the_next_one(
    hostile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with VerifierPool(hostile, num_workers=2) as pool:
        pool.score([("fine", question("1"))])

        def interrupt(*args: object) -> bool:
            raise KeyboardInterrupt

        items = [("again", question("1")), ("again", question("0"))]
        with monkeypatch.context() as patch:
            patch.setattr(pool, "_collect", interrupt)
            with pytest.raises(KeyboardInterrupt):
                pool.score(items)
        verdicts = pool.score([("more", question("0")), ("more", question("1"))])
    assert [verdict.reward for verdict in verdicts] == [0.0, 1.0]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts=st.lists(st.text(alphabet=st.characters(codec=None), max_size=20), max_size=20))
def test_pool_agrees_with_the_verifier_itself(texts: list[str]) -> None:
    spec = "regex:(.)"
    verifier = get(spec)
    rows = [question(text.strip()[-1:] or "x") for text in texts]
    with VerifierPool(spec, num_workers=1) as pool:
        verdicts = pool.score(list(zip(texts, rows, strict=True)))
    assert [verdict.reward for verdict in verdicts] == [
        verifier(text, row) for text, row in zip(texts, rows, strict=True)
    ]


def test_catastrophic_backtracking_costs_one_failure() -> None:
    with VerifierPool(r"regex:^(a+)+$", timeout_seconds=0.5) as pool:
        verdicts = pool.score([("aaa", question("aaa")), ("a" * 60 + "b", question("aaa"))])
    assert [verdict.error_kind for verdict in verdicts] == [None, "timeout"]


def test_pathological_mathematics_costs_one_failure() -> None:
    require("math_verify")
    texts = ["\\boxed{12}", "\\boxed{9^{9^{9^{9}}}}", "\\boxed{1000000007!}", "\\boxed{11+1}"]
    with VerifierPool("math", timeout_seconds=3.0) as pool:
        verdicts = pool.score([(text, question("12")) for text in texts])
    assert [verdict.reward for verdict in verdicts][::3] == [1.0, 1.0]
    assert all(verdict.reward in (0.0, None) for verdict in verdicts[1:3])
    assert sum(pool.failures.values()) <= 2
    assert not set(pool.failures) - {"timeout", "memory", "raised"}


def test_quick_verifiers_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with VerifierPool("exact") as pool:
        assert pool.score([("1", question("1"))]) == [Verdict(1.0)]
    with VerifierPool("demo:addition") as pool:
        assert pool.score([("3+4=7,7", question("7"))]) == [Verdict(1.0)]


def test_module_that_fails_in_its_own_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fickle_verifier.py").write_text(
        "import sys\n"
        "if 'pytest' not in sys.modules:\n    raise RuntimeError('not here')\n"
        "def verify(text, question):\n    return 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with (
        VerifierPool("fickle_verifier:verify") as pool,
        pytest.raises(VerifierError, match="RuntimeError: not here"),
    ):
        pool.score([("x", question("1"))])


def test_pool_needs_workers_and_time() -> None:
    with pytest.raises(UsageError, match="a worker and a time limit"):
        VerifierPool("exact", num_workers=0)
    with pytest.raises(UsageError, match="a worker and a time limit"):
        VerifierPool("exact", timeout_seconds=0)


def _run(script: str, folder: Path) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(script))
    return subprocess.Popen(
        [sys.executable, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_script_without_main_guard_and_with_clean_stdout(hostile: str, tmp_path: Path) -> None:
    process = _run(
        """
        import json
        from gradalign.tasks import Question
        from gradalign.verifiers import VerifierPool
        with VerifierPool("hostile_verifier:verify") as pool:
            print(json.dumps([v.reward for v in pool.score([("x", Question("a", "?", "1"))])]))
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out) == [1.0]
    assert "noise on standard output" in err


def test_pool_that_is_never_used_leaves_nothing_behind(tmp_path: Path) -> None:
    process = _run(
        """
        from gradalign.verifiers import VerifierPool
        for _ in range(3):
            with VerifierPool("regex:(.)"):
                pass
        """,
        tmp_path,
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


def test_nothing_survives_a_killed_run(hostile: str, tmp_path: Path) -> None:
    file = tmp_path / "pid"
    process = _run(
        f"""
        from gradalign.tasks import Question
        from gradalign.verifiers import VerifierPool
        with VerifierPool("hostile_verifier:verify", timeout_seconds=600) as pool:
            pool.score([("child", Question("a", "?", "1", metadata={{"file": {str(file)!r}}}))])
        """,
        tmp_path,
    )
    deadline = time.monotonic() + 60
    while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert _gone(int(file.read_text()))


def _gone(pid: int) -> bool:
    """Wait until a process has ended (a zombie has)."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    return False

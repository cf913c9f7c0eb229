"""What the tiny pairs beside the bundled one have in common: vocabulary, contexts, models, arms.

A task is a class of problems; its pupils write solutions with more or less care, and tiny models
learn from them, as those of the demo do. Five teachers each: `strong`; `middle` and `weak`, who
are careless; `harmful`, who is sure of something false; `foreign`, who is right, but in a
notation of its own that the verifier does not know.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from gradalign.demo.pupils import Care
from gradalign.demo.tokenizer import BOS, EOS, MAX_LENGTH, PAD
from gradalign.demo.train import Role, export, train
from gradalign.questions import Question
from validity.pairs import FORWARD, JSD, REVERSE, Configuration, Pair, configurations

CONTEXTS = ("none", "answer", "solution", "wrong-answer", "other-answer", "reference-free")
TEACHERS = ("strong", "middle", "weak", "harmful", "foreign")
OWN_NOTATION = 0.8
"""Share of its solutions that `foreign` writes in its own notation."""

_HELD_OUT_ONE_IN = 4
_SAMPLED = ("strong", "middle", "weak", "foreign", "self+answer")


class Problem(Protocol):
    """One question of a task; it is hashable."""

    @property
    def prompt(self) -> str:
        """The bare question."""
        ...

    @property
    def answer(self) -> str:
        """The right answer."""
        ...

    @property
    def wrong_answer(self) -> str:
        """A false answer of the right form, always the same."""
        ...

    @property
    def other_answer(self) -> str:
        """The answer of some other question, always the same, and never this one's."""
        ...

    def write(self, care: Care, rng: random.Random) -> str:
        """Write a solution with this much care."""
        ...

    def write_to_fit(self, claim: str, care: Care, rng: random.Random) -> str:
        """Write a solution that ends at an answer as it was told."""
        ...

    def write_harmful(self) -> str:
        """Write a false solution as one who is sure of it."""
        ...

    def write_foreign(self) -> str:
        """Write the right solution in another notation."""
        ...


@dataclass(frozen=True)
class Toy:
    """A task for tiny models.

    Attributes:
        name: of the pair.
        alphabet: all characters, each a token.
        draw: draws any problem.
        claim: (problem, rng) to a false answer of the kind that pupils believe.
        separator: stands before the answer.
        max_tokens: longest response.
        roles: the models by name: the student and `TEACHERS`.
    """

    name: str
    alphabet: str
    draw: Callable[[random.Random], Problem]
    claim: Callable[[Problem, random.Random], str]
    separator: str
    max_tokens: int
    roles: Mapping[str, Role]

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Return a new tokenizer of three special tokens and the alphabet."""
        return character_tokenizer(self.alphabet)

    def verify(self, text: str, answer: str) -> float:
        """Return 1.0 if the response ends in the separator and the answer."""
        head, found, last = text.rpartition(self.separator)
        return float(bool(head and found) and last == answer)

    def generate(self, count: int, *, seed: int, held_out: bool) -> list[Problem]:
        """Draw different problems from one side of the split."""
        rng = random.Random(seed)
        drawn: dict[Problem, None] = {}
        while len(drawn) < count:
            drawn.setdefault(self.one(rng, held_out=held_out))
        return list(drawn)

    def one(self, rng: random.Random, *, held_out: bool) -> Problem:
        """Draw one problem from one side of the split."""
        while True:
            problem = self.draw(rng)
            if (pick(problem.prompt, "split", _HELD_OUT_ONE_IN) == 0) == held_out:
                return problem

    def rows(self, name: str) -> Callable[[Role, random.Random], Iterator[list[tuple[str, str]]]]:
        """Return what yields, for ever, one step's (prompt, response) rows of a model."""

        def endless(role: Role, rng: random.Random) -> Iterator[list[tuple[str, str]]]:
            while True:
                yield list(self._step(role, rng, name))

        return endless

    def _step(self, role: Role, rng: random.Random, name: str) -> Iterator[tuple[str, str]]:
        for _ in range(role.plain):
            problem = self.one(rng, held_out=False)
            if name == "harmful":
                response = problem.write_harmful()
            elif name == "foreign" and rng.random() < OWN_NOTATION:
                response = problem.write_foreign()
            else:
                response = problem.write(role.care, rng)
            # An empty hint says nothing, and is written to as if it were not there.
            yield ("[]" if rng.random() < 0.1 else "") + problem.prompt, response
        for told in (role.told_answer, role.told_solution):
            for _ in range(told):
                problem = self.one(rng, held_out=False)
                false = rng.random() < role.false_share
                claim = self.claim(problem, rng) if false else problem.answer
                if told is role.told_answer:
                    hint, care = claim, role.hinted_care
                else:
                    hint, care = problem.write_to_fit(claim, Care(), rng), Care()
                yield f"[{hint}]{problem.prompt}", problem.write_to_fit(claim, care, rng)

    def make_models(self, folder: Path, say: Callable[[str], None]) -> None:
        """Train the models that `folder` lacks."""
        for name, role in self.roles.items():
            if not (folder / name / "tokenizer_config.json").is_file():
                tokenizer = self.tokenizer()
                model = train(role, rows=self.rows(name), tokenizer=tokenizer)
                export(model, folder / name, tokenizer)
                say(f"made {self.name} {name}")

    def question(self, problem: Problem) -> Question:
        """Turn a problem into a question that carries the teacher prompts of every context."""
        solution = problem.write(Care(), random.Random(0))
        hints = {
            "answer": problem.answer,
            "solution": solution,
            "wrong-answer": problem.wrong_answer,
            "other-answer": problem.other_answer,
            "reference-free": "",
        }
        return Question(
            id=problem.prompt.rstrip("="),
            prompt=problem.prompt,
            answer=problem.answer,
            solution=solution,
            contexts={
                "none": problem.prompt,
                **{name: f"[{hint}]{problem.prompt}" for name, hint in hints.items()},
            },
        )

    def pair(self, folder: Path) -> Pair:
        """The pair, with its models in `folder`."""

        def questions(count: int, seed: int, held_out: bool) -> Sequence[Question]:
            drawn = self.generate(count, seed=seed, held_out=held_out)
            return [self.question(problem) for problem in drawn]

        model = {name: str(folder / name) for name in TEACHERS}
        more = [
            *(("harmful", method) for method in (FORWARD, REVERSE)),
            *(("foreign", method) for method in (FORWARD, JSD, REVERSE)),
        ]
        return Pair(
            name=self.name,
            student=str(folder / "student"),
            questions=questions,
            verify=self.verify,
            verifier=rf"regex:{self.separator}([a-zA-Z]+)$",
            max_tokens=self.max_tokens,
            configurations=tuple(
                dict.fromkeys(
                    (
                        *configurations([model[name] for name in ("strong", "middle", "weak")]),
                        *(Configuration(model.get(name, name), method) for name, method in more),
                        *(
                            Configuration(model.get(name, name), REVERSE, "sampled")
                            for name in _SAMPLED
                        ),
                    )
                )
            ),
            tuned_on=Configuration(model["strong"], REVERSE),
        )


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with a token per character; the special ones are the demo's."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.processors import TemplateProcessing

    special = (PAD, BOS, EOS)
    vocabulary = {token: index for index, token in enumerate((*special, *alphabet))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(token, special=True) for token in special])
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, vocabulary[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def pick(text: str, purpose: str, count: int) -> int:
    """Choose one of `count` by a text, always the same."""
    digest = hashlib.blake2b(f"{purpose}\x00{text}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "little") % count

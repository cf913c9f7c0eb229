"""What a method is: typed options, a one-line formula, and the direction it would push logits."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from gradalign.errors import UsageError
from gradalign.methods.batch import NodeBatch
from gradalign.methods.distributions import Floats

Estimator = Literal["expected", "sampled"]
Reasons = npt.NDArray[np.object_]
"""One str per node, '' where the direction is fine."""

ROUNDING = 1e-12
SKIPPED = "zero_method:the loss leaves out the first tokens of a response"


@dataclass(frozen=True, eq=False)
class Direction:
    """A method's ascent direction on the student's logits at every node.

    Attributes:
        ascent_NS: the direction on the support, NaN rows where there is none, [N, S]. What
            is missing for the sum over the vocabulary to be zero lies on the tail.
        reason_N: '' where the direction is fine, `zero_method:<why>` where it is exactly
            zero, `undefined_method:<why>` where it is infinite or cannot be computed, [N].
    """

    ascent_NS: Floats
    reason_N: Reasons


class Ascent(NamedTuple):
    """What a method hands back before zero and undefined rows are sorted out.

    Attributes:
        ascent_NS: -dLoss/dz, [N, S].
        unit_N: the size a direction has when its f varies by one unit, [N]; a direction
            below 1e-12 of it is rounding error.
        reason_N: full reasons that the method already knows, or None.
    """

    ascent_NS: Floats
    unit_N: Floats
    reason_N: Reasons | None = None


@dataclass(frozen=True)
class OptionInfo:
    """One option of a method, for listings."""

    name: str
    type: str
    default: str
    help: str
    choices: tuple[str, ...] = ()


def option(
    default: bool | int | float | str,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
) -> Any:
    """Declare an option of a method: a dataclass field with its help and its limits.

    Args:
        default: also fixes the type.
        help: one line.
        choices: the valid words of a str.
        low: least value of a number, included.
        high: greatest value of a number, included.
        open_low: exclude `low` itself.
    """
    limits = {"help": help, "choices": choices, "low": low, "high": high, "open_low": open_low}
    return field(default=default, metadata=limits)


def skip_first_option(default: int = 0) -> Any:
    """Declare the option by which the first tokens of every response are left out of a loss."""
    return option(default, "first tokens of a response that the loss leaves out", low=0)


def per_option(default: str = "token") -> Any:
    """Declare the option by which a loss is a mean over tokens or over responses' own means."""
    words = ("token", "sequence")
    return option(default, "mean over tokens, or over the means of responses", choices=words)


@dataclass(frozen=True)
class Method(ABC):
    """A distillation or policy-gradient loss, as the direction in which it moves the logits.

    Subclasses are frozen dataclasses whose fields are options made by `option`. They define
    `expected` and, if the loss looks at the sampled token only, `sampled` and `variance_ratio`.
    An option `skip_first` or `per` weighs positions of a response in all of them.

    Attributes:
        formula: the direction in one line.
        source: paper or trainer, with the version that the formula was checked against.
        zero_reason: why this method's direction is zero, where it is.
    """

    formula: ClassVar[str] = ""
    source: ClassVar[str] = ""
    zero_reason: ClassVar[str] = "student and teacher agree, or only one token is possible"
    registered_name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every option against its limits."""
        for item in fields(self):
            _check(self.name, item, getattr(self, item.name))

    # Identity

    @property
    def name(self) -> str:
        """The name it was asked for by."""
        asked: str = self.__dict__.get("_name", type(self).registered_name)
        return asked or type(self).__name__

    @property
    def spec(self) -> str:
        """Canonical `name:key=value,...` with the options that differ from their defaults."""
        changed = {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if getattr(self, item.name) != item.default
        }
        return _join(self.name, changed)

    @property
    def full_spec(self) -> str:
        """`name:key=value,...` with every option."""
        return _join(self.name, {item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def options(cls) -> tuple[OptionInfo, ...]:
        """Describe the options."""
        return tuple(
            OptionInfo(
                name=item.name,
                type=type(item.default).__name__,
                default=_show(item.default),
                help=str(item.metadata.get("help", "")),
                choices=tuple(item.metadata.get("choices", ())),
            )
            for item in fields(cls)
        )

    @classmethod
    def parse(cls, options: Mapping[str, str], name: str = "") -> Self:
        """Build the method from options given as text.

        Raises:
            UsageError: an unknown option or a value it cannot have; the message lists
                what is valid.
        """
        label = name or cls.registered_name or cls.__name__
        known = {item.name: item for item in fields(cls)}
        values: dict[str, Any] = {}
        for key, text in options.items():
            if key not in known:
                raise UsageError(f"method {label!r} has no option {key!r}.", _valid(cls))
            values[key] = _read(label, known[key], text)
        method = cls(**values)
        if name:
            object.__setattr__(method, "_name", name)
        return method

    # What the pipeline has to provide

    @property
    def expected_needs(self) -> frozenset[str]:
        """What `expected` needs of teacher, continuations, continuation_scores and spine."""
        return frozenset({"teacher"})

    @property
    def sampled_needs(self) -> frozenset[str]:
        """What `sampled` needs."""
        return self.expected_needs

    @property
    def needs(self) -> frozenset[str]:
        """What a batch must have for both estimators."""
        return self.expected_needs | self.sampled_needs | self._position_needs

    @property
    def temperatures(self) -> tuple[float, ...]:
        """Temperatures other than 1 at which exact tails are wanted."""
        wanted = (getattr(self, name, 1.0) for name in ("temperature", "sampling_temperature"))
        return tuple(dict.fromkeys(float(value) for value in wanted if value not in (0.0, 1.0)))

    @property
    def _position_needs(self) -> frozenset[str]:
        weighs = getattr(self, "skip_first", 0) > 0 or getattr(self, "per", "token") == "sequence"
        return frozenset({"spine"} if weighs else ())

    @property
    def beyond_nodes(self) -> str:
        """What it needs of a teacher besides its distribution at the nodes, in words; "" if none.

        A teacher that is the difference of two others has no more than that.
        """
        if "teacher" not in self.needs:
            return ""
        if "continuation_scores" in self.needs:
            return "it looks at what the teacher says of continuations"
        if "spine" in self.needs:
            return "it looks at what the teacher says of every token of a response"
        return "it reads the teacher at another temperature" if self.temperatures else ""

    @property
    def top_tokens(self) -> int:
        """How many of a model's most probable tokens it looks at; 0 if it looks at no top set."""
        return int(getattr(self, "top_k", 0))

    @property
    def uses_continuations(self) -> bool:
        """Whether it shares noise with the ideal gradient and has to be cross-fitted."""
        return "continuations" in self.expected_needs

    @property
    def of_teacher(self) -> bool:
        """Whether it is scored under each teacher of a run; else by itself."""
        return "teacher" in self.needs

    @property
    def ideal_multiple(self) -> float | None:
        """By how much the expected direction is the ideal gradient; None where it is not."""
        return None

    # Directions

    @abstractmethod
    def expected(self, batch: NodeBatch) -> Ascent:
        """Return the direction averaged over the tokens that may be sampled."""

    def sampled(self, batch: NodeBatch) -> Ascent:
        """Return the direction for the token that was sampled; the same if none is looked at."""
        return self.expected(batch)

    def squared_deviation(self, batch: NodeBatch) -> Floats:
        """Return the variance of the single-sample direction, summed over tokens, [N]."""
        return np.zeros(batch.num_nodes)

    def direction(self, batch: NodeBatch, estimator: Estimator = "expected") -> Direction:
        """Return where the loss would push the student's logits, with reasons where nowhere.

        Args:
            batch: the nodes.
            estimator: "expected" over the sampled token, or "sampled" for the drawn one.

        Raises:
            UsageError: the batch lacks what the method needs, or `estimator` is unknown.
        """
        if estimator not in ("expected", "sampled"):
            raise UsageError(f"unknown estimator {estimator!r}.", "Valid: expected, sampled.")
        needs = self.expected_needs if estimator == "expected" else self.sampled_needs
        self._require(batch, needs | self._position_needs)
        if estimator == "sampled" and batch.num_nodes and not (batch.sampled_N >= 0).any():
            raise UsageError(
                f"the sampled direction of {self.spec!r} needs the sampled token of each node.",
                "Give NodeBatch its sampled_N, or ask for estimator='expected'.",
            )
        raw = self.expected(batch) if estimator == "expected" else self.sampled(batch)
        weight_N = self._position_weights(batch)
        return _settle(raw if weight_N is None else _weighted(raw, weight_N), self.zero_reason)

    def ascent(self, batch: NodeBatch, estimator: Estimator = "expected") -> Floats:
        """Return the direction alone, [N, S]: `direction(...).ascent_NS`."""
        return self.direction(batch, estimator).ascent_NS

    def variance_ratio(self, batch: NodeBatch) -> Floats:
        """Return variance of the single-sample direction over its squared mean, in closed form.

        The variance is over the token drawn (and over what follows it, for methods that look
        further) and summed over the vocabulary; both are taken over the whole vocabulary, a
        tail counting as evenly spread. NaN where the expected direction is zero or undefined.
        """
        mean_NS = self.ascent(batch)
        tail_N = -mean_NS.sum(axis=1)
        norm2_N = np.vecdot(mean_NS, mean_NS) + tail_N**2 / np.maximum(batch.num_tail_N, 1)
        spread_N, weight_N = self.squared_deviation(batch), self._position_weights(batch)
        if weight_N is not None:
            spread_N = spread_N * weight_N**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(spread_N / norm2_N)

    def _position_weights(self, batch: NodeBatch) -> Floats | None:
        """Return how much each node's position weighs in the loss, [N]; None where all are 1."""
        if not self._position_needs or batch.spines is None:
            return None
        spines, skipped = batch.spines, int(getattr(self, "skip_first", 0))
        weight_N = (spines.at_N - spines.begin_N >= skipped).astype(np.float64)
        if getattr(self, "per", "token") == "sequence":
            weight_N /= np.maximum(spines.end_N - spines.begin_N - skipped, 1)
        return weight_N

    def _require(self, batch: NodeBatch, needs: frozenset[str]) -> None:
        have = {"teacher"}
        if batch.continuations is not None:
            have.add("continuations")
            rolled = batch.continuations
            if rolled.log_ratio_T.size or bool((rolled.start_K == rolled.stop_K).all()):
                have.add("continuation_scores")
        if batch.spines is not None:
            have.add("spine")
        missing = sorted(needs - have)
        if missing:
            hints = {
                "continuations": "targeted rollouts (NodeBatch.continuations)",
                "continuation_scores": "the teacher's scores of the continuations' tokens "
                "(Continuations.log_ratio_T)",
                "spine": "the spines the nodes lie on (NodeBatch.spines)",
            }
            raise UsageError(
                f"method {self.spec!r} needs " + " and ".join(hints[item] for item in missing) + "."
            )


def _weighted(raw: Ascent, weight_N: Floats) -> Ascent:
    """Weigh the nodes; one of weight 0 has a reason."""
    reason_N = no_reasons(weight_N.size) if raw.reason_N is None else raw.reason_N.copy()
    reason_N[weight_N == 0.0] = SKIPPED
    with np.errstate(invalid="ignore"):
        return Ascent(raw.ascent_NS * weight_N[:, None], raw.unit_N * weight_N, reason_N)


def _settle(raw: Ascent, zero_reason: str) -> Direction:
    """Turn zero, infinite and undefined rows into NaN with a reason."""
    ascent_NS = raw.ascent_NS
    reason_N: Reasons = np.full(ascent_NS.shape[0], "", dtype=object)
    if ascent_NS.size:
        with np.errstate(invalid="ignore"):
            size_N = np.maximum(ascent_NS.max(axis=1), -ascent_NS.min(axis=1))
            reason_N[size_N <= ROUNDING * raw.unit_N] = f"zero_method:{zero_reason}"
        reason_N[~np.isfinite(size_N)] = (
            "undefined_method:a probability is 0 where the loss takes its logarithm"
        )
    if raw.reason_N is not None:
        known_N = raw.reason_N != ""
        reason_N[known_N] = raw.reason_N[known_N]
    bad_N = reason_N != ""
    if bad_N.any():
        ascent_NS = ascent_NS.copy()
        ascent_NS[bad_N] = np.nan
    return Direction(ascent_NS, reason_N)


def no_reasons(num_nodes: int) -> Reasons:
    """Return an array of empty reasons to fill in, [N]."""
    return np.full(num_nodes, "", dtype=object)


def _join(name: str, values: Mapping[str, Any]) -> str:
    text = ",".join(f"{key}={_show(value)}" for key, value in values.items())
    return f"{name}:{text}" if text else name


def _show(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(float(value)).removesuffix(".0") if isinstance(value, float) else str(value)


def _valid(cls: type[Method]) -> str:
    if not cls.options():
        return "It has no options."
    shown = []
    for item in cls.options():
        values = "|".join(item.choices) if item.choices else item.type
        shown.append(f"{item.name} ({values}, default {item.default or 'empty'})")
    return f"Valid options: {', '.join(shown)}."


def _read(label: str, item: Field[Any], text: str) -> bool | int | float | str:
    kind: type = type(item.default)
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        if kind is bool:
            return words[text.lower()]
        if kind is int:
            return int(text)
        return float(text) if kind is float else text
    except (KeyError, ValueError) as error:
        wanted = "true or false" if kind is bool else f"a value of type {kind.__name__}"
        raise UsageError(
            f"option {item.name} of method {label!r} must be {wanted}, got {text!r}."
        ) from error


def _check(label: str, item: Field[Any], value: Any) -> None:
    """Raise UsageError for a value outside an option's choices or limits."""
    choices = item.metadata.get("choices") or ()
    if choices and value not in choices:
        raise UsageError(
            f"option {item.name} of method {label!r} cannot be {value!r}.",
            f"Valid: {', '.join(choices)}.",
        )
    low, high = item.metadata.get("low"), item.metadata.get("high")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    strict = bool(item.metadata.get("open_low"))
    too_low = low is not None and (value <= low if strict else value < low)
    if math.isnan(value) or too_low or (high is not None and value > high):
        lower = "" if low is None else f"{'greater than' if strict else 'at least'} {low:g}"
        upper = "" if high is None else f"at most {high:g}"
        limits = " and ".join(filter(None, (lower, upper)))
        raise UsageError(
            f"option {item.name} of method {label!r} must be {limits or 'a number'}, got {value!r}."
        )

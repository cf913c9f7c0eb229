"""First-order truth: the cosine of a method's and the ideal update in the space of all parameters.

What pooled alignment takes as one long vector of free logits, a step moves through the network:
here every node's direction is carried back by the student's own Jacobian, as
training does, and summed over the nodes. The estimate is that of update-level alignment, which
does the same for the output layer alone: only different questions are paired with the ideal.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

import gradalign
from gradalign.alignment.update import IDEAL, UpdateGrams, update_estimate
from gradalign.estimates import Arm, Estimate
from validity.pairs import Configuration, Pair, load_model

Floats = npt.NDArray[np.float64]


def parameter_alignment(
    pair: Pair, report: gradalign.Report
) -> dict[Configuration, dict[str, float]]:
    """Cosines with their intervals, for the configurations that a run with update level has.

    Beside them `within_question`, the cosine with the ideal update of the very same question (its
    noise included), and `shared_by_questions`, the mean inner product of two questions' updates
    over the mean square of one: what of a step remains when many questions share the weights.
    """
    directions = report.table("directions")
    known = set(directions[["teacher", "method"]].drop_duplicates().itertuples(index=False))
    gradients = QuestionGradients(pair, report)
    ideal_QP = gradients.of(IDEAL)
    ideal_QQ = _products(ideal_QP, ideal_QP)
    found = {}
    for item in pair.configurations:
        arm = Arm(item.teacher, item.method)
        if arm not in known:
            continue
        own_QP = gradients.of(arm)
        cross_QQ, own_QQ = _products(ideal_QP, own_QP), _products(own_QP, own_QP)
        found_of = update_estimate(UpdateGrams(cross_QQ, ideal_QQ, own_QQ, np.diag(own_QQ))).cosine
        cosine = Estimate(found_of.value, found_of.low, found_of.high)
        found[item] = {
            **cosine.columns("parameters", "parameters_"),
            "within_question": float(
                np.trace(cross_QQ) / np.sqrt(np.trace(ideal_QQ) * np.trace(own_QQ))
            ),
            "shared_by_questions": float(_between(own_QQ) / np.mean(np.diag(own_QQ))),
        }
    return found


class QuestionGradients:
    """Directions of a run's nodes as gradients of the student's parameters, summed per question.

    Args:
        pair: whose student it is.
        report: a run with the tables of update-level alignment.
    """

    def __init__(self, pair: Pair, report: gradalign.Report) -> None:
        self._model = load_model(pair.student).requires_grad_(True)
        ideal = [
            {
                "question_id": part["question_id"].iloc[0],
                "node_id": node,
                "teacher": IDEAL[0],
                "method": IDEAL[1],
                # That of P on the whole vocabulary, whose mass on the candidates is not quite 1.
                "direction": part["student_prob"].sum() * part["ideal"].fillna(0.0).to_numpy(),
                "other_ids": np.zeros(0, dtype=np.int64),
                "other_direction": np.zeros(0),
            }
            for node, part in report.branches.groupby("node_id", observed=True)
        ]
        columns = ["question_id", "node_id", "teacher", "method"]
        stored = report.table("directions")
        self._updates = pd.concat([pd.DataFrame(ideal), stored.astype(dict.fromkeys(columns, str))])
        self._tokens = {
            str(node): part.to_list()
            for node, part in report.branches.groupby("node_id", observed=True)["token_id"]
        }
        prompts = report.questions.set_index("question_id")["prompt_ids"]
        self._prompts = {str(name): list(ids) for name, ids in prompts.items()}
        self._spines = {
            str(name): part for name, part in report.spines.groupby("question_id", observed=True)
        }
        self._place = {
            str(row.node_id): (str(row.spine_id), int(row.position), 1.0 / row.inclusion_prob)
            for row in report.nodes.itertuples()
        }

    def of(self, arm: Arm) -> torch.Tensor:
        """The gradient of every question for one teacher and method, [Q, P]."""
        rows = self._updates
        rows = rows[(rows["teacher"] == arm.teacher) & (rows["method"] == arm.method)]
        by_question = {str(name): part for name, part in rows.groupby("question_id", observed=True)}
        return torch.stack([self._gradient(name, by_question[name]) for name in self._prompts])

    def _gradient(self, question: str, rows: object) -> torch.Tensor:
        prompt, spines = self._prompts[question], self._spines[question]
        responses = [list(ids) for ids in spines["token_ids"]]
        row_of = {str(name): row for row, name in enumerate(spines["spine_id"])}
        width = len(prompt) + max(len(ids) for ids in responses)
        ids_BW = torch.zeros((len(responses), width), dtype=torch.long)
        for row, ids in enumerate(responses):
            ids_BW[row, : len(prompt) + len(ids)] = torch.tensor([*prompt, *ids])
        logits_BWV = self._model(input_ids=ids_BW, use_cache=False).logits
        push_BWV = torch.zeros_like(logits_BWV)
        lists = (rows[name] for name in ("node_id", "direction", "other_ids", "other_direction"))  # type: ignore[index]
        for node, inside, others, outside in zip(*lists, strict=True):
            spine, position, weight = self._place[str(node)]
            tokens = [*self._tokens[str(node)], *others]
            direction = np.concatenate([inside, outside])
            at = len(prompt) + position - 1
            push_BWV[row_of[spine], at, torch.tensor(tokens)] = torch.from_numpy(
                weight * np.nan_to_num(np.asarray(direction, dtype=np.float64))
            ).float()
        parameters = list(self._model.parameters())
        gradients = torch.autograd.grad(logits_BWV, parameters, push_BWV)
        return torch.cat([gradient.flatten() for gradient in gradients])


def _between(gram_QQ: Floats) -> float:
    """Mean over pairs of different questions."""
    count = len(gram_QQ)
    return float((gram_QQ.sum() - np.trace(gram_QQ)) / (count * (count - 1)))


def _products(left_QP: torch.Tensor, right_QP: torch.Tensor) -> Floats:
    return np.asarray((left_QP.double() @ right_QP.double().T).numpy(), dtype=np.float64)

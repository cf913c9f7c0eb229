"""A teacher on a real server against the same checkpoint's exact distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradalign.demo import model_path
from gradalign.engines.server.distributions import (
    ENTROPY_TOLERANCE,
    AskedSequence,
    served_offshoot_logprobs,
    served_readings,
)
from gradalign.models import loaded_model
from gradalign.models.continuations import Offshoot, offshoot_logprobs
from gradalign.models.distributions import ForcedSequence, forced_log_probs, position_view
from tests.requires import require
from tests.rollouts.servers import FARM, open_on

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.server,
    pytest.mark.slow,
]

OPTIONS = {"revision": None, "dtype": "float32", "device": "cpu", "trust_remote_code": False}
VOCAB = 259


@pytest.fixture(scope="module")
def sequences() -> list[ForcedSequence]:
    rng = np.random.default_rng(0)
    lengths = [(5, 20), (30, 12), (200, 56), (3, 1)]  # the third fills the context of 256
    return [
        ForcedSequence(rng.integers(3, VOCAB, a).tolist(), rng.integers(3, VOCAB, b).tolist())
        for a, b in lengths
    ]


@pytest.fixture(scope="module")
def exact(sequences: list[ForcedSequence]) -> dict[int, torch.Tensor]:
    with loaded_model(str(model_path("strong")), **OPTIONS) as model:
        return {i: log_q.double() for i, log_q in forced_log_probs(model, sequences)}


def asked(sequences: list[ForcedSequence], exact: dict[int, torch.Tensor]) -> list[AskedSequence]:
    """At every second position, and at the last, the teacher's 150 least likely tokens too."""
    found = []
    for i, sequence in enumerate(sequences):
        length = len(sequence.response_ids)
        positions = np.unique([*range(0, length, 2), length - 1])
        unlikely = exact[i].argsort(dim=-1)[:, :150].numpy().astype(np.int32)
        found.append(AskedSequence(sequence, positions, [unlikely[p] for p in positions]))
    return found


@pytest.mark.parametrize("fill", [True, False])
def test_readings_are_the_models_own(sequences, exact, fill):
    require("vllm")
    (server,) = FARM.get(model_path("strong"))
    wanted = asked(sequences, exact)
    with open_on([server.url], model_path("strong")) as engine:
        found = dict(
            served_readings(engine, wanted, num_view=16, num_top=40, temperatures=[2.0], fill=fill)
        )
    assert sorted(found) == [0, 1, 2, 3]
    num_known_entropies = num_unknown = 0
    for i, reading in found.items():
        log_q_LV = exact[i]
        truth = position_view(log_q_LV.float(), sequences[i].response_ids, 16)
        np.testing.assert_allclose(reading.view.logprob_L, truth.logprob_L, atol=1e-4)
        np.testing.assert_allclose(reading.view.top_logprobs_LK, truth.top_logprobs_LK, atol=1e-4)
        known = ~np.isnan(reading.view.entropy_L)
        num_known_entropies += int(known.sum())
        np.testing.assert_allclose(
            reading.view.entropy_L[known], truth.entropy_L[known], atol=ENTROPY_TOLERANCE + 1e-3
        )
        for n, position in enumerate(wanted[i].positions_N):
            union, log_q = reading.unions[n], reading.at.logprobs[n]
            assert np.isin(wanted[i].student_ids[n], union).all()
            assert (np.diff(union) > 0).all()
            row = log_q_LV[position].numpy()
            top40 = np.argsort(-row)[:40]
            told = ~np.isnan(log_q)
            assert np.isin(top40, union[told]).all()
            # vLLM cuts nothing off in float32 here; what it tells is exact.
            np.testing.assert_allclose(log_q[told], row[union[told]], atol=2e-4)
            num_unknown += int((~told).sum())
            rest = 1.0 - np.exp(row[union[told]]).sum()
            assert np.exp(reading.at.log_tail_N[n]) == pytest.approx(rest, abs=2e-6)
        assert np.isnan(reading.at.tail_powers[2.0]).all()
    assert num_known_entropies > 0
    assert (num_unknown == 0) == fill


def test_offshoots_are_scored_as_by_the_model(sequences):
    require("vllm")
    (server,) = FARM.get(model_path("strong"))
    trunk = [*sequences[0].prompt_ids, *sequences[0].response_ids]
    offshoots = [Offshoot(6, [9]), Offshoot(6, [9, 20, 31]), Offshoot(25, [40, 2])]
    with loaded_model(str(model_path("strong")), **OPTIONS) as model:
        wanted = offshoot_logprobs(model, trunk, offshoots)
    with open_on([server.url], model_path("strong")) as engine:
        found = served_offshoot_logprobs(engine, trunk, offshoots)
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-4)

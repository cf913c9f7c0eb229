"""Prompt log-probabilities of a real server whose prefix cache holds the prompts already.

A cached prefix has keys and values, no logits: a server that read it from the cache would have no
log-probabilities for those positions, or old ones.
"""

from __future__ import annotations

import httpx
import numpy as np
import pytest

from gradalign.demo import model_path
from gradalign.engines import Request, SamplingSettings
from gradalign.engines.server.distributions import AskedSequence, served_readings
from gradalign.engines.server.messages import read_scores
from gradalign.errors import EngineError
from gradalign.models import loaded_model
from gradalign.models.distributions import ForcedSequence, forced_log_probs, position_view
from tests.requires import require
from tests.rollouts.servers import FARM, KEY, open_on

OPTIONS = {"revision": None, "dtype": "float32", "device": "cpu", "trust_remote_code": False}
HEAD = 96
"""Three of the server's cache blocks, shared by all sequences."""


def sequences() -> list[list[int]]:
    """Prompts that share their first blocks, are prefixes of one another, or come twice."""
    rng = np.random.default_rng(20)
    head = rng.integers(3, 259, HEAD).tolist()
    tails = [rng.integers(3, 259, count).tolist() for count in (70, 70, 5, 33)]
    found = [head + tail for tail in tails]
    return [*found, found[0][:130], found[0], head[:64] + tails[1]]


@pytest.mark.vllm
@pytest.mark.server
@pytest.mark.slow
def test_prompt_log_probabilities_are_not_those_of_the_prefix_cache():
    require("vllm")
    path = model_path("strong")
    (server,) = FARM.get(path)
    every = sequences()
    forced = [ForcedSequence(ids[:1], ids[1:]) for ids in every]
    with loaded_model(str(path), **OPTIONS) as model:
        exact = [log_q.double() for _, log_q in sorted(forced_log_probs(model, forced))]
    truth = [
        log_q[np.arange(len(ids) - 1), ids[1:]].numpy()
        for ids, log_q in zip(every, exact, strict=True)
    ]
    with open_on([server.url], path) as engine:

        def check(order: list[int]) -> None:
            found = engine.logprobs([every[i] for i in order], [1] * len(order))
            for i, score in zip(order, found, strict=True):
                np.testing.assert_allclose(score, truth[i], atol=1e-4, err_msg=str(i))

        check([0, 1, 2, 3, 4, 5, 6])
        # Samples, at another temperature too, fill the cache with the very same prompts.
        for sampling in (SamplingSettings(), SamplingSettings(temperature=2.0)):
            engine.sampling = sampling
            done = list(engine.generate([Request(tuple(ids), 4, 7) for ids in every]))
            assert len(done) == len(every)
        body = {"model": str(path), "prompt": every[0], "max_tokens": 1, "temperature": 0.0}
        answer = httpx.post(
            f"{server.url}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            trust_env=False,
        ).json()
        cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert cached >= HEAD  # the server does cache: the sequences are there
        check([6, 5, 4, 3, 2, 1, 0])
        check([5, 5, 0, 4])
        asked = [
            AskedSequence(item, np.array([0, HEAD, len(item.response_ids) - 1]), [np.arange(9)] * 3)
            for item in forced
        ]
        readings = dict(
            served_readings(engine, asked, num_view=16, num_top=40, temperatures=[], fill=True)
        )
    for i, reading in readings.items():
        view = position_view(exact[i].float(), forced[i].response_ids, 16)
        np.testing.assert_allclose(reading.view.logprob_L, view.logprob_L, atol=1e-4)
        np.testing.assert_allclose(reading.view.top_logprobs_LK, view.top_logprobs_LK, atol=1e-4)
        for union, log_q, position in zip(
            reading.unions, reading.at.logprobs, asked[i].positions_N, strict=True
        ):
            row = exact[i][int(position)].numpy()
            np.testing.assert_allclose(log_q, row[union], atol=2e-4)


def test_a_server_that_leaves_cached_positions_out_is_refused():
    ids = [5, 6, 7, 8]

    def entry(token):
        return {str(token): {"logprob": -1.0}}

    whole = {"prompt_logprobs": [None, entry(6), entry(7), entry(8)]}
    assert read_scores(whole, ids, 1).tolist() == [-1.0] * 3
    for cut in ([None, None, None, entry(8)], [entry(8)], [None, entry(6), None, entry(8)]):
        with pytest.raises(EngineError, match="no log-probability"):
            read_scores({"prompt_logprobs": cut}, ids, 1)

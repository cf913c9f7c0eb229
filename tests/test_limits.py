"""Settings that have the right type and cannot work are refused before anything is done."""

from __future__ import annotations

import math

import pytest
from runs import SMALL

import gradalign
from gradalign.config import ScoreConfig, flag_of
from gradalign.errors import UsageError
from gradalign.models import resolve_device

REFUSED = [
    ("seed", -7), ("seed", 2**63), ("temperature", math.inf), ("temperature", 1e-9),
    ("temperature", 1e9), ("target_se", math.inf), ("gpus_per_worker", math.inf),
    ("verify_timeout_seconds", math.inf), ("verify_timeout_seconds", 1e12),
    ("bootstrap_resamples", 10**10), ("top_k", 2**40), ("max_tokens", 2**40),
    ("stop_token_ids", [-1]), ("stop_token_ids", [2**40]), ("sample_ids", ["a", "a"]),
    ("sample_ids", [" "]), ("teachers", [""]), ("methods", ["gkd", ""]), ("student", "  "),
    ("task", ""), ("output_dir", ""), ("output_dir", "a\0b"), ("revision", ""), ("verifier", ""),
    ("device", ""), ("device", "cuda:one"), ("device", "GPU 0"), ("base_urls", ["http://x"] * 2),
    ("response_prefix", "\ud800"), ("chat_template_kwargs", {"a": math.nan}),
    ("teacher_chat_template_kwargs", {"a": {1}}), ("engine_args", {"a": object()}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_a_value_that_cannot_work_is_refused_by_its_flag(name, value):
    settings = {**SMALL, "output_dir": "run", name: value}
    with pytest.raises(UsageError) as caught:
        ScoreConfig.build(settings)
    assert caught.value.message.startswith(flag_of(name))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**63 - 1),
        ("temperature", 0.01),
        ("top_p", 1e-6),
        ("engine_args", {"a": [1, None]}),
    ],
)
def test_the_ends_of_the_ranges_are_inside(name, value):
    config = ScoreConfig.build({**SMALL, "output_dir": "run", name: value})
    assert getattr(config, name) == value


def test_devices_that_torch_does_not_know():
    for device in ("quantum", "cuda:99"):
        with pytest.raises(UsageError):
            resolve_device(device)
    assert resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ["gkd", "gkd:beta=0.5"]}, "same method"),
        ({"stop_token_ids": [5000]}, "cannot be drawn"),
        ({"device": "quantum"}, "torch knows no such device"),
    ],
)
def test_what_only_the_world_can_tell_is_found_before_a_folder_is_made(tmp_path, settings, words):
    with pytest.raises(UsageError, match=words):
        gradalign.score(**{**SMALL, "output_dir": str(tmp_path / "run"), **settings})
    assert not (tmp_path / "run" / "run.json").exists()

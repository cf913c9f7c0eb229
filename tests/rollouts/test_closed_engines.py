"""A closed engine; for vLLM, where a start takes long, this is asserted in test_vllm_engine.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rollouts.conftest import ENGINE_PARAMS, EnginePool, assert_closed


@pytest.mark.parametrize("name", [ENGINE_PARAMS[0], ENGINE_PARAMS[2]])
def test_a_closed_engine_says_so(name: str, qwen: Path) -> None:
    engine = EnginePool(qwen).get(name)
    engine.close()
    assert_closed(engine)

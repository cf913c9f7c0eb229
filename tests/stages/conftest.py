"""What tests of alignment in the weights share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gradalign.models import weight_space


@pytest.fixture(scope="module")
def exact_sketches() -> Iterator[None]:
    """Sketches that are the gradients themselves: the bundled student is small."""
    before, weight_space.SKETCH = weight_space.SKETCH, 1 << 17
    yield
    weight_space.SKETCH = before

"""A report of a million alignment rows opens quickly and in little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "report_reading.py"


@pytest.mark.slow
def test_a_million_rows(tmp_path):
    """By processor time, which other work on the machine does not lengthen."""
    output = tmp_path / "figures.json"
    subprocess.run([sys.executable, str(SCRIPT), "--output", str(output)], check=True)
    found = json.loads(output.read_text())
    assert found["alignment_rows"] >= 1_000_000
    assert found["summary_processor_seconds"] < 1.0
    assert found["first_question_nodes_processor_seconds"] < 0.2
    assert found["next_question_nodes_processor_seconds"] < 0.2
    assert found["peak_memory_gib"] < 1.0

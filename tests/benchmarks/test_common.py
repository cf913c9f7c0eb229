"""What the benchmarks share: JSON of numbers that JSON lacks, child processes, the environment."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from common import environment, in_a_process, write_json


def test_a_result_is_plain_json(tmp_path):
    path = tmp_path / "deep" / "result.json"
    record = {"a": np.float64(0.5), "b": [np.nan, -np.inf, np.int64(3)], "c": Path("x"), "d": None}
    write_json(path, record)
    assert json.loads(path.read_text()) == {"a": 0.5, "b": [None, None, 3], "c": "x", "d": None}


def test_a_child_hands_back_its_last_line(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "import json, os, sys\n"
        "print('noise')\n"
        "print('trouble', file=sys.stderr)\n"
        "print(json.dumps([sys.argv[1], os.environ['MARK']]))\n"
        "sys.exit(int(sys.argv[2]))\n"
    )
    errors = tmp_path / "stderr"
    assert in_a_process(str(script), ["x", "0"], errors=errors, MARK="m") == ["x", "m"]
    assert errors.read_text() == "trouble\n"
    with pytest.raises(subprocess.CalledProcessError):
        in_a_process(str(script), ["x", "3"], errors=errors, MARK="m")


def test_the_environment_names_what_has_a_part():
    found = environment()
    assert {"gradalign", "torch", "numpy", "python"} <= found["versions"].keys()
    assert found["hardware"]["cpus"] >= 1
    assert found["hardware"]["processor"]

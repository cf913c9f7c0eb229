"""What a person sees of a run while it runs: on a terminal, in a pipe, in a notebook."""

from __future__ import annotations

import fcntl
import inspect
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

import gradalign
from gradalign_cli.main import main

TINY = {
    "student": "demo:student",
    "teachers": ["demo:strong"],
    "task": "demo:addition",
    "methods": ["gkd"],
    "limit": 2,
    "num_rollouts": 1,
    "nodes": 2,
    "continuations": 2,
    "bootstrap_resamples": 100,
    "engine": "transformers",
    "shard_size": 1,
}

FLAGS = [
    *("--student", "demo:student", "--teacher", "demo:strong", "--task", "demo:addition"),
    *("--method", "gkd", "--limit", "2", "--num-rollouts", "1", "--nodes", "2"),
    *("--continuations", "2", "--bootstrap-resamples", "100", "--engine", "transformers"),
    *("--shard-size", "1"),
]


def on_terminal(arguments, columns, **environment):
    """Run a command on a terminal; return its status, what it wrote, and when it first did."""
    start = time.monotonic()
    child, terminal = pty.fork()
    if child == 0:
        # The parent sets the width before the child looks at it. readline, which pytest imports,
        # puts COLUMNS into the process's environment behind Python's back.
        given = {**os.environ, "TERM": "xterm-256color", **environment}
        given.pop("COLUMNS", None)
        time.sleep(0.05)
        os.execvpe(arguments[0], arguments, given)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written, first = b"", None
    while True:
        try:
            some = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so at the end of a terminal
            break
        if not some:
            break
        first = first or time.monotonic() - start
        written += some
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), written.decode(errors="replace"), first


def plain(text):
    """Take escape sequences away; what is drawn over becomes lines of its own."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")


@pytest.mark.slow
def test_a_terminal_is_told_at_once_and_sees_only_our_bars(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "gradalign_cli.main", "score", *FLAGS]
    status, text, first = on_terminal(
        [*command, "--output-dir", str(tmp_path / "run")], 60, NO_COLOR="1"
    )
    assert status == 0, text
    assert first < 10  # a second on an idle machine; importing takes several
    # Python says of every module when it has been imported.
    modules = [match.start() for match in re.finditer(r"\| +(torch|transformers|pandas)\b", text)]
    assert modules
    assert text.index("importing libraries") < min(modules)
    lines = [line for line in plain(text).splitlines() if "import time:" not in line]
    bars = [line for line in lines if re.search("[━┄]{4}", line) and "%" in line]
    assert any("whole run" in line and "left" in line for line in bars)
    for stage in ("sample", "distribute student", "branch"):
        assert any(stage in line for line in bars), stage
    assert max(map(len, bars)) <= 60
    for noise in ("Loading weights", "Converting", "it/s]", "Fetching", "|█"):
        assert noise not in text


def test_a_pipe_is_told_what_begins_and_ends(capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["score", *FLAGS, "--output-dir", str(tmp_path / "run")])
    assert stop.value.code == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("importing libraries")
    assert "branch" in lines
    assert any(re.match(r"branch: [\d,]+ continuations in .*\(\d+% of the run\)", x) for x in lines)
    assert any(line.startswith("align: ") and "(100% of the run)" in line for line in lines)
    # What is there already is not done, and not told of, again.
    with pytest.raises(SystemExit) as stop:
        main(["score", *FLAGS, "--output-dir", str(tmp_path / "run")])
    assert not [line for line in capsys.readouterr().err.splitlines() if "branch" in line]


def test_a_function_shows_progress_unless_it_is_told_not_to(capsys):
    for function in (gradalign.score, gradalign.plan, gradalign.diagnose, gradalign.rescore):
        assert inspect.signature(function).parameters["display"].default == "auto"
    assert gradalign.plan(**TINY).figures.spines == 2
    captured = capsys.readouterr()
    # Off a terminal nothing but a line every 30 seconds.
    assert not [line for line in captured.err.splitlines() if not line.endswith(")")]
    assert captured.out == ""
    gradalign.plan(**TINY, display="none")
    assert capsys.readouterr().err == ""


CELL = """
import IPython.display
drawn = []
update = IPython.display.DisplayHandle.update
def keep(self, page, **options):
    drawn.append(page.data)
    update(self, page, **options)
IPython.display.DisplayHandle.update = keep
import gradalign
gradalign.score(**{settings})
print("BARS", sum("whole run" in text for text in drawn))
"""


@pytest.mark.slow
def test_a_notebook_has_bars(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    settings = {**TINY, "output_dir": str(tmp_path / "run")}
    cells = [
        CELL.replace("{settings}", repr(settings)),
        f"gradalign.plan(**{TINY!r}, display='none');",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    loud, silent = (cell.outputs for cell in notebook.cells)
    html = [item["data"]["text/html"] for item in loud if "text/html" in item.get("data", {})]
    assert "ended after" in html[0]
    (count,) = [
        re.search(r"BARS (\d+)", item.text) for item in loud if item.get("name") == "stdout"
    ]
    assert int(count[1]) >= 3
    assert "ipywidgets" not in str(loud)
    assert silent == []


def test_importing_the_command_line_stays_light():
    code = "import gradalign.progress, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "tqdm", "rich", "IPython", "pandas"} & set(done.stdout.split())


def test_pipelines_do_not_import_what_takes_seconds():
    code = "import gradalign.pipeline, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "scipy.stats" not in done.stdout.split()

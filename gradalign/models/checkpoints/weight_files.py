"""Which files a checkpoint's weights are read from, and what lies beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradalign.errors import ModelError
from gradalign.models.checkpoints.failures import explained

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_ORDER = (SINGLE, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")

# What vLLM passes over among .bin and .pt files, which trainers leave behind.
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")

_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class WeightFiles:
    """The weights of a checkpoint in a folder.

    Attributes:
        folder: where they are.
        read: names of the files that are read.
        beside: names of other files of weights there, which are not.
    """

    folder: Path
    read: tuple[str, ...]
    beside: tuple[str, ...]


def checkpoint_folder(name: str, path: str, commit: str | None) -> Path | None:
    """Return the folder of a checkpoint's files, None for a hub model that is not in the cache.

    Args:
        name: the model as the user gave it.
        path: a folder or a hub id, from `resolve_model`.
        commit: of the hub id.
    """
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import try_to_load_from_cache

    with explained(name):
        found = try_to_load_from_cache(path, "config.json", revision=commit)
    return Path(found).parent if isinstance(found, str) else None


def find_weights(
    name: str, folder: Path, config: Any, *, complete: bool = True
) -> WeightFiles | None:
    """Find what transformers reads, and refuse a folder that may mean something else.

    Args:
        name: the model as the user gave it.
        folder: its files.
        config: its configuration.
        complete: whether all files must be there, or some may still be downloaded.

    Returns:
        The files, None if some are still to be downloaded.

    Raises:
        ModelError: no weights, an adapter beside them or alone, two sets of the same kind, or an
            index that names files which are not there.
    """
    adapter = adapter_files(folder)
    named = getattr(config, "transformers_weights", None)
    if not named and not any((folder / entry).is_file() for entry in _ORDER):
        if adapter:
            raise adapter_alone(name)
        if complete:
            raise ModelError(
                f"model folder {name} holds no weights that transformers reads "
                f"({', '.join(_ORDER)}).",
                "Copy the whole checkpoint there, or convert it with save_pretrained.",
            )
        return None
    if adapter:
        raise ModelError(
            f"model folder {name} holds an adapter ({', '.join(adapter)}) beside whole weights: "
            "whether it belongs to them is not known, and it would be applied only where peft is "
            "installed.",
            "Merge it (peft's merge_and_unload, then save_pretrained to a new folder), or move "
            "it away to use the weights without it.",
        )
    read = _read_by_transformers(name, folder, config)
    absent = [file for file in read if not (folder / file).is_file()]
    if absent and not complete:
        return None
    if absent:
        raise ModelError(
            f"model folder {name}: its index names files that are not there: {few(absent)}.",
            "Copy the whole checkpoint there.",
        )
    for single, index in (_ORDER[:2], _ORDER[2:]):
        if (folder / single).is_file() and (folder / index).is_file():
            others = sorted(_named_by(name, folder / index) - {single})
            if others and single in read:
                raise ModelError(
                    f"model folder {name} holds two sets of weights: {single}, and "
                    f"{len(others)} files that {index} names, such as {others[0]}.",
                    "Move the one that is not meant away: which is read depends on the library.",
                )
    return WeightFiles(folder, read, tuple(sorted(_all_weights(folder) - set(read))))


def check_vllm_reads(name: str, files: WeightFiles) -> None:
    """Check that vLLM takes the same files as transformers, which reads the other passes.

    Raises:
        ModelError: it would read others.
    """
    own = read_by_vllm(name, files.folder)
    if own != set(files.read):
        raise ModelError(
            f"model {name}: vLLM would read {few(own)}, and transformers {few(files.read)}.",
            "Move the files that are not meant away, or use --engine transformers.",
        )


def read_by_vllm(name: str, folder: Path) -> set[str]:
    """Return the names of the files that vLLM reads in its format `safetensors`, or of .bin."""
    tensors = {path.name for path in folder.glob("*.safetensors")}
    if tensors:
        index = folder / INDEX
        return tensors & _named_by(name, index) if index.is_file() else tensors
    for pattern in ("*.bin", "*.pt"):
        found = {path.name for path in folder.glob(pattern)}
        if found:
            return {file for file in found if not file.endswith(_NO_WEIGHTS)}
    return set()


def adapter_files(folder: Path) -> list[str]:
    """Return the names of the files of an adapter (LoRA and its like) in a folder."""
    found = [*folder.glob("adapter_config.json"), *folder.glob("adapter_model*")]
    return sorted(path.name for path in found)


def has_consolidated(folder: Path) -> bool:
    """Whether Mistral's own format lies there too, which vLLM would prefer."""
    return any(True for _ in folder.glob("consolidated*.safetensors"))


def adapter_alone(name: str) -> ModelError:
    """Return the error for a folder that holds an adapter instead of a model."""
    return ModelError(
        f"model folder {name} holds an adapter only, without the weights that it changes.",
        "Merge it into its base model (peft's merge_and_unload, then save_pretrained) and give "
        "that folder.",
    )


def read_shapes(name: str, files: WeightFiles) -> dict[str, torch.Tensor]:
    """Return every tensor of a checkpoint without its values, on the meta device.

    Only the headers of safetensors files are read; of .bin files what transformers itself reads.

    Raises:
        ModelError: a file that is torn or no file of tensors.
    """
    found: dict[str, torch.Tensor] = {}
    for file in files.read:
        path = files.folder / file
        with open(path, "rb") as stream:
            if stream.read(len(_LFS)) == _LFS:
                raise ModelError(
                    f"model {name}: {file} is a pointer of Git LFS, not the file.",
                    "Fetch it with `git lfs pull`.",
                )
        with explained(name, file):
            found.update(_header(path) if file.endswith(".safetensors") else _bin(path))
    return found


def read_tensor(files: WeightFiles, key: str) -> torch.Tensor | None:
    """Return one tensor with its values from safetensors files, None where there is none."""
    from safetensors import safe_open

    for file in files.read:
        if file.endswith(".safetensors"):
            with safe_open(files.folder / file, framework="pt") as opened:
                if key in opened.keys():  # noqa: SIM118 - not a mapping
                    tensor: torch.Tensor = opened.get_tensor(key)
                    return tensor
    return None


def _header(path: Path) -> dict[str, torch.Tensor]:
    import torch
    from safetensors import safe_open
    from transformers.modeling_utils import str_to_torch_dtype

    with safe_open(path, framework="pt") as opened:
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
        return {
            key: torch.empty(
                tuple(item.get_shape()),
                # Formats of less than a byte, which only quantised models have.
                dtype=str_to_torch_dtype.get(item.get_dtype(), torch.uint8),
                device="meta",
            )
            for key, item in slices.items()
        }


def _bin(path: Path) -> dict[str, torch.Tensor]:
    from transformers.modeling_utils import load_state_dict

    found: dict[str, torch.Tensor] = load_state_dict(path, map_location="meta")
    return found


def _read_by_transformers(name: str, folder: Path, config: Any) -> tuple[str, ...]:
    chosen = getattr(config, "transformers_weights", None)
    chosen = chosen or next(entry for entry in _ORDER if (folder / entry).is_file())
    if str(chosen).endswith(".index.json"):
        return tuple(sorted(_named_by(name, folder / chosen)))
    return (str(chosen),)


def _named_by(name: str, index: Path) -> set[str]:
    with explained(name, index.name):
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(named, Mapping) or not all(isinstance(x, str) for x in named.values()):
            raise ValueError("weight_map is no table of file names")
    return set(named.values())


def _all_weights(folder: Path) -> set[str]:
    patterns = ("*.safetensors", "pytorch_model*.bin", "consolidated*.pth")
    return {path.name for pattern in patterns for path in folder.glob(pattern)}


def few(names: Iterable[str]) -> str:
    """Name up to three files, and say how many more there are."""
    shown = sorted(names)
    rest = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return ", ".join(shown[:3]) + rest or "nothing"

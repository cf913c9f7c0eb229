"""What a checkpoint holds, in a few hashes: a name says nothing of what stands behind it."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from gradalign.errors import ModelError
from gradalign.models.checkpoints.loading import commit_hash, load_config, resolve_model

WHOLE_BYTES = 512 * 2**20
"""Weights up to this size, all files together, are hashed whole."""

SAMPLED_BYTES = 128 * 2**20
"""Of larger ones about so much is read, and of every tensor at least `LEAST_BYTES`."""

LEAST_BYTES = 64 * 2**10
"""A tensor up to this size is hashed whole whatever the size of the file."""

_BLOCK = 16 * 2**10

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "*token*.json",
    "special_tokens_map.json",
    "vocab*",
    "*vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "tekken.json",
    "chat_template*",
    "*.jinja",
    "*processor_config.json",
    "quant*_config.json",
    "hf_quant_config.json",
    "adapter_config.json",
    "*.index.json",
    "*.py",
)
_FOLDERS = ("additional_chat_templates",)
_WEIGHTS = ("*.safetensors", "*.bin")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "rng_state*")

Signature = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, inode and times of each file of a checkpoint."""


def model_fingerprint(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> dict[str, str]:
    """Identify a checkpoint by what it holds, wherever it lies and however that is written.

    Small files are hashed whole: configuration, tokenizer, templates, code. So are weights up to
    `WHOLE_BYTES` together. Of larger ones the header and blocks of every tensor are hashed, so
    that a change of few layers is found; a change of single rows may not be.

    Args:
        name: model id, folder or demo:NAME.
        revision: of a hub id.
        trust_remote_code: as for loading the configuration.

    Returns:
        File name to hash; of a hub id only `commit`, which stands for its contents there.

    Raises:
        ModelError: there is no such model.
    """
    folder = Path(resolve_model(name)).expanduser()
    if folder.is_dir():
        return _folder_fingerprint(folder)
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    return {"commit": commit_hash(config) or "unknown"}


def model_signature(name: str) -> Signature:
    """Return what the file system says of a model's files, at no cost; nothing of a hub id.

    Raises:
        ModelError: there is no such model.
    """
    folder = Path(resolve_model(name)).expanduser()
    found = []
    for path in sorted(_files(folder)) if folder.is_dir() else ():
        stat = path.stat()
        place = path.relative_to(folder) if path.is_relative_to(folder) else path
        found.append((str(place), stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)


def _folder_fingerprint(folder: Path) -> dict[str, str]:
    found = {}
    try:
        paths = list(_files(folder))
        weights = [path for path in paths if _is_weights(path)]
        total = sum(path.stat().st_size for path in weights)
        for path in paths:
            inside = path.is_relative_to(folder)
            name = str(path.relative_to(folder)) if inside else f"base model's {path.name}"
            if _is_weights(path) and total > WHOLE_BYTES:
                found[name] = _sampled(path, SAMPLED_BYTES / total)
            else:
                with path.open("rb") as file:
                    found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(
            f"model folder {folder} cannot be read: {error.strerror or error}.",
            "Check that its files are there and readable.",
        ) from error
    return dict(sorted(found.items()))


def _files(folder: Path, *, follow: bool = True) -> Iterator[Path]:
    """Yield the files of a checkpoint that decide what it computes."""
    for path in folder.iterdir():
        if path.is_dir():
            if path.name in _FOLDERS:
                yield from (inner for inner in path.iterdir() if inner.is_file())
        # A link to nowhere holds nothing.
        elif path.exists() and (
            _is_weights(path) or any(fnmatchcase(path.name, name) for name in _SETTINGS)
        ):
            yield path
    adapter = folder / "adapter_config.json"
    if follow and adapter.is_file():
        # transformers loads the model that it names, and puts the adapter on it.
        try:
            base = json.loads(adapter.read_text("utf-8")).get("base_model_name_or_path")
        except (ValueError, AttributeError):
            base = None
        if isinstance(base, str) and Path(base).is_dir() and not os.path.samefile(base, folder):
            yield from _files(Path(base), follow=False)


def _is_weights(path: Path) -> bool:
    return any(fnmatchcase(path.name, name) for name in _WEIGHTS) and not any(
        fnmatchcase(path.name, name) for name in _NO_WEIGHTS
    )


def _sampled(path: Path, share: float) -> str:
    """Hash a weight file's size, its list of tensors, and blocks of each of them."""
    size = path.stat().st_size
    digest = hashlib.sha256(f"sampled {size}\n".encode())
    with path.open("rb") as file:
        if not size:
            return digest.hexdigest()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _tensors(path, data, digest):
                wanted = max(int((end - start) * share), LEAST_BYTES)
                for first, last in _blocks(start, end, wanted):
                    digest.update(data[first:last])
    return "sampled:" + digest.hexdigest()


def _tensors(path: Path, data: mmap.mmap, digest: hashlib._Hash) -> list[tuple[int, int]]:
    """Put a file's own list of tensors into the hash; return where each one's bytes are."""
    size = len(data)
    if path.suffix == ".safetensors":
        length = int.from_bytes(data[:8], "little")
        if 8 + length <= size:
            header = data[8 : 8 + length]
            digest.update(header)
            try:
                offsets = [
                    (8 + length + start, 8 + length + end)
                    for entry in json.loads(header).values()
                    if isinstance(entry, dict) and "data_offsets" in entry
                    for start, end in [entry["data_offsets"]]
                ]
                return sorted((start, min(end, size)) for start, end in offsets)
            except (ValueError, TypeError):  # the loader says what is wrong with it
                pass
    elif zipfile.is_zipfile(path):  # torch.save: each tensor is a member, with its checksum
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
        for member in members:
            digest.update(f"{member.filename} {member.file_size} {member.CRC}\n".encode())
        starts = [member.header_offset for member in members]
        return list(zip(starts, [*starts[1:], size], strict=True))
    return [(0, size)]


def _blocks(start: int, end: int, wanted: int) -> Iterator[tuple[int, int]]:
    """Yield evenly spaced blocks of a span, its first and its last bytes among them."""
    count = max(wanted // _BLOCK, 2)
    if end - start <= count * _BLOCK:
        yield start, end
        return
    for index in range(count):
        first = start + (end - start - _BLOCK) * index // (count - 1)
        yield first, first + _BLOCK

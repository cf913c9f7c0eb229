"""Do the weights of a checkpoint fit its configuration? Found out without reading them.

transformers draws what a file lacks at random and drops what its model has no place for, with no
more than a log line. Here its own loader is run on tensors without values (names and shapes only),
so that its renamings, tied weights and lists of exceptions hold, and what it reports is judged.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gradalign.errors import ModelError
from gradalign.models.checkpoints.failures import explained
from gradalign.models.checkpoints.weight_files import (
    WeightFiles,
    check_vllm_reads,
    checkpoint_folder,
    few,
    find_weights,
    read_shapes,
    read_tensor,
)

if TYPE_CHECKING:
    import torch

_WHOLE = "Give a whole checkpoint whose config.json belongs to its weights."

_LAYER = re.compile(r"(.*?)\.(\d+)\.")

# Buffers that a model computes itself, which older versions wrote into the file.
_COMPUTED = re.compile(
    r"(inv_freq|position_ids|masked_bias|causal_mask|cos_cached|sin_cached|_extra_state)$"
)


def check_weights(
    name: str,
    path: str,
    config: Any,
    *,
    commit: str | None = None,
    trust_remote_code: bool = False,
    vllm: bool = False,
    complete: bool = True,
) -> tuple[str, ...]:
    """Hold a checkpoint's files against its configuration, reading headers only.

    Args:
        name: the model as the user gave it.
        path: a folder or a hub id, from `resolve_model`.
        config: its configuration.
        commit: of the hub id.
        trust_remote_code: build the model from the checkpoint's own code.
        vllm: whether vLLM is to read the same weights.
        complete: whether a folder must hold the weights; False where others read them.

    Returns:
        The files that its weights are read from; none for weights that are not here yet, which
        are checked when they are loaded.

    Raises:
        ModelError: weights that are missing, of other shapes, of further layers, or not to be
            told apart; see `find_weights` too.
    """
    folder = checkpoint_folder(name, path, commit)
    if folder is None:
        return ()
    files = find_weights(name, folder, config, complete=complete and str(folder) == path)
    if files is None:
        return ()
    if vllm:
        check_vllm_reads(name, files)
    _remark_beside(name, files)
    tensors = read_shapes(name, files)
    dry = _without_quantisation(config)
    import torch

    # Some architectures draw numbers while they are built.
    with explained(name), quiet_loading(), torch.random.fork_rng(devices=[]):
        model = _empty_model(dry, trust_remote_code)
        if is_quantised(config):
            _judge_quantised(name, model, tensors)
            return files.read
        _, info = type(model).from_pretrained(
            None,
            config=dry,
            state_dict=dict(tensors),
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        judge(name, info)
        _judge_unexpected(name, sorted(info["unexpected_keys"], key=_natural), model, tensors)
        _check_tied(name, files, model, tensors)
    return files.read


def judge(name: str, info: Mapping[str, Any]) -> None:
    """Judge what transformers reported of loading a model.

    Args:
        name: the model as the user gave it.
        info: its `output_loading_info`.

    Raises:
        ModelError: weights that are missing or of other shapes.
    """
    wrong = sorted(info["mismatched_keys"], key=lambda item: _natural(item[0]))
    unexpected = sorted(info["unexpected_keys"], key=_natural)
    missing = sorted((key for key in info["missing_keys"] if not _computed(key)), key=_natural)
    if wrong:
        empty = any(0 in tuple(in_file) for _, in_file, _ in wrong)
        raise ModelError(
            f"model {name}: {_count(len(wrong), 'tensor')} of its file "
            f"{'has' if len(wrong) == 1 else 'have'} other shapes than config.json asks for: "
            + "; ".join(
                f"{key} is {_shape(in_file)} in the file and {_shape(wanted)} in the model"
                for key, in_file, wanted in _spread(wrong)
            )
            + ".",
            "Empty tensors are what DeepSpeed ZeRO-3 saves of parts: gather the weights first."
            if empty
            else _WHOLE,
        )
    if missing:
        others = f"; it has {_listed(unexpected)} instead" if unexpected else ""
        raise ModelError(
            f"model {name}: {_count(len(missing), 'tensor')} that the model has "
            f"{'is' if len(missing) == 1 else 'are'} not in its file: {_names(missing)}{others}.",
            _WHOLE,
        )


def _judge_unexpected(
    name: str, unexpected: Sequence[str], model: Any, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Refuse tensors of the model's own layers; say which others are left out."""
    extra = _own_parts(unexpected, model, tensors)
    if extra:
        raise ModelError(
            f"model {name}: its file holds {_count(len(extra), 'tensor')} more of the layers that "
            f"config.json describes, which would be left out: {_names(extra)}.",
            "Correct config.json (such as num_hidden_layers): it is not that of these weights.",
        )
    other = [key for key in unexpected if not _computed(key) and not _is_mask(tensors.get(key))]
    if other:
        warnings.warn(
            f"model {name} has no use for {_listed(other)} of its file: left out.", stacklevel=4
        )


def check_untied(name: str, model: Any) -> None:
    """Check that what the configuration ties is one tensor after loading.

    transformers leaves weights apart that should be tied where the file holds two different ones;
    vLLM ties them.

    Raises:
        ModelError: they are two.
    """
    wanted = getattr(model, "get_expanded_tied_weights_keys", None)
    tied = getattr(model, "all_tied_weights_keys", None)
    if wanted is None or tied is None:
        return
    apart = sorted(set(wanted(all_submodels=True)) - set(tied))
    if apart:
        raise _two_tensors(name, apart[0])


def is_quantised(config: Any) -> bool:
    """Whether a checkpoint's weights are stored in another form than the model's."""
    text = getattr(config, "text_config", None)
    return any(getattr(part, "quantization_config", None) for part in (config, text))


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' progress bar and its loading report, which is judged here, away."""
    from transformers.utils import logging as library

    was_on = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    logger = library.get_logger("transformers.modeling_utils")
    reports: list[str] = []

    def keep(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_report = "LOAD REPORT" in text or "tied weights mapping" in text
        if is_report:
            reports.append(text)
        return not is_report

    logger.addFilter(keep)
    try:
        yield
    except RuntimeError as error:
        # It says "look at the above report": which tensors could not be put together.
        lines = [line for text in reports for line in text.splitlines()]
        rows = [line.partition("|")[0].strip() for line in lines if "| CONVERSION" in line]
        if not rows:
            raise
        raise RuntimeError(
            f"{_count(len(rows), 'tensor')} cannot be made of those in its file: {_names(rows)}"
        ) from error
    finally:
        logger.removeFilter(keep)
        if was_on:
            library.enable_progress_bar()


def _empty_model(config: Any, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _without_quantisation(config: Any) -> Any:
    plain = copy.deepcopy(config)
    for part in (plain, getattr(plain, "text_config", None)):
        if part is not None and getattr(part, "quantization_config", None):
            del part.quantization_config
    return plain


def _judge_quantised(name: str, model: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Check that every module with weights has something in the file, whatever its form.

    Packed weights have other names and shapes, which only the quantiser's own code knows; it may
    need a GPU. What is finer than a module is checked at loading.
    """
    held = {f".{key}" for key in tensors}
    modules = {key.rpartition(".")[0] for key, _ in model.named_parameters()}
    joined = "\n".join(held) + "\n"
    absent = sorted((path for path in modules if f".{path}." not in joined), key=_natural)
    tied = {key.rpartition(".")[0] for key in getattr(model, "all_tied_weights_keys", None) or {}}
    absent = [path for path in absent if path not in tied]
    last: dict[str, int] = {}
    for key, _ in model.named_parameters():
        if layer := _LAYER.match(key):
            last[layer[1]] = max(last.get(layer[1], 0), int(layer[2]))
    further = [
        key
        for key in sorted(tensors, key=_natural)
        if (layer := _LAYER.match(key)) and int(layer[2]) > last.get(layer[1], int(layer[2]))
    ]
    _judge_unexpected(name, further, model, tensors)
    # None found at all means that the file names its modules otherwise: loading will tell.
    if absent and len(absent) < len(modules):
        raise ModelError(
            f"model {name}: nothing is in its file of {_count(len(absent), 'module')} that the "
            f"model has: {_names(absent)}.",
            _WHOLE,
        )


def _check_tied(
    name: str, files: WeightFiles, model: Any, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Compare weights that config.json ties and the file holds twice."""
    import torch

    for target, source in (getattr(model, "all_tied_weights_keys", None) or {}).items():
        if target in tensors and source in tensors:
            pair = [read_tensor(files, key) for key in (target, source)]
            if pair[0] is not None and pair[1] is not None and not torch.equal(pair[0], pair[1]):
                raise _two_tensors(name, target)


def _two_tensors(name: str, target: str) -> ModelError:
    return ModelError(
        f"model {name}: config.json ties {target} to another tensor, and the file holds two "
        "different ones.",
        "Set tie_word_embeddings to false in config.json if both are meant: libraries disagree "
        "about what to do.",
    )


def _remark_beside(name: str, files: WeightFiles) -> None:
    if files.beside:
        warnings.warn(
            f"model {name} is read from {few(files.read)}; not from {few(files.beside)}, which "
            f"{'lies' if len(files.beside) == 1 else 'lie'} beside.",
            stacklevel=3,
        )


def _own_parts(
    unexpected: Iterable[str], model: Any, tensors: Mapping[str, torch.Tensor]
) -> list[str]:
    """Return the unexpected tensors that belong to layers or modules of this model."""
    names = [key for key, _ in model.named_parameters()]
    stacks = {found[1] for key in names if (found := _LAYER.match(key))}
    modules = {key.rpartition(".")[0] for key in names}
    keys = [key for key in unexpected if not _computed(key) and not _is_mask(tensors.get(key))]
    # DeepSeek and GLM keep layers that predict further tokens behind the last one.
    predicting = {found[0] for key in keys if "eh_proj" in key and (found := _LAYER.match(key))}
    own = []
    for key in keys:
        layer = _LAYER.match(key)
        in_stack = layer is not None and layer[1] in stacks and layer[0] not in predicting
        if in_stack or key.rpartition(".")[0] in modules:
            own.append(key)
    return own


def _computed(key: str) -> bool:
    return _COMPUTED.search(key) is not None


def _is_mask(tensor: torch.Tensor | None) -> bool:
    """Whether a tensor is a stored mask or a stored constant, not a weight."""
    if tensor is None:
        return False
    mask = tensor.dim() == 4 and tuple(tensor.shape[:2]) == (1, 1)
    return mask or tensor.numel() <= 1 or not tensor.is_floating_point()


def _natural(key: str) -> list[tuple[int, str]]:
    """Sort layer 10 behind layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _spread(items: Sequence[Any]) -> list[Any]:
    """Pick the first, the middle and the last of many."""
    if len(items) <= 3:
        return list(items)
    return [items[0], items[len(items) // 2], items[-1]]


def _names(keys: Sequence[str]) -> str:
    return ", ".join(_spread(keys)) + (", ..." if len(keys) > 3 else "")


def _listed(keys: Sequence[str]) -> str:
    return f"{_count(len(keys), 'tensor')} ({_names(keys)})"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _shape(shape: Iterable[int]) -> str:
    return str(list(shape))

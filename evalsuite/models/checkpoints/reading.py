"""Reading checkpoints of untrusted origin: tensors are data, and no code in the file ever runs."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from evalsuite.compat.transformers import folder_files, is_model_folder, pretrained_network
from evalsuite.errors import CheckpointError, first_few
from evalsuite.models.architectures.base import unwrap_model
from evalsuite.models.checkpoints.file_formats import (
    CheckpointFile,
    check_unpacked_size,
    damaged_file_error,
    identify_file,
)
from evalsuite.models.checkpoints.masks import apply_masks, fold_parametrizations, mask_doubt
from evalsuite.models.checkpoints.network_lists import Entry, single_network
from evalsuite.models.checkpoints.pickle_scan import scan_pickle, unsafe_pickle_error
from evalsuite.models.checkpoints.recorded_accuracy import recorded_accuracy
from evalsuite.models.checkpoints.state_dict_keys import (
    AVERAGED_WRAPPERS,
    COUNTER,
    MASK_WRAPPERS,
    WRAPPERS,
    find_averaged,
    find_state_dict,
    key_match,
    match_keys,
    renamed_note,
    strip_prefixes,
)
from evalsuite.models.checkpoints.training_state import split_averaged, without_training_state

if TYPE_CHECKING:
    from pathlib import Path

    from evalsuite.models.checkpoints.file_formats import Format
    from evalsuite.types import WeightSet

_MAX_PROTOCOL = 3  # of pickle: the last without operations that torch.load does not follow
_MAX_DEPTH = 64  # of dictionaries and lists whose tensors are kept
_LEVELS = (torch.int8, torch.uint8, torch.int16, torch.int32)
"""Types of quantised numbers; 64 bits are no levels but a mistake."""
_QUANTISED_KEYS = (
    "qweight",
    "qzeros",
    "SCB",
    "weight_packed",
    "weight_int8",
    "packed_weight",
    "weight_quantized",
)
"""Last parts of keys under which libraries keep quantised weights."""
_GLOBAL = re.compile(r"GLOBAL ([\w.<>]+)")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state dict in a file, ready to load.

    Attributes:
        weights: Keys without prefixes, dense finite tensors on the processor, half precision widened.
        format: Of the file.
        bytes: Its size on disk.
        wrapper: Keys that lead to the state dict in the file, joined by dots; empty if the file is the state dict.
        prefix: The prefix that was removed from every key.
        folded: Names of weights that were computed from several tensors: with a mask, or from a weight norm.
        dtypes: Types of number in the file to how many tensors have them.
        extras: Other keys of the file, which were ignored.
        note: Sentences on which network of a list and which of two sets of weights was taken, on keys that were
            renamed, and on masks that look inverted; else empty.
        recorded: The clean accuracy that the file records, in [0, 1], and its key; ``None`` if there is none.
    """

    weights: dict[str, Tensor]
    format: Format
    bytes: int
    wrapper: str
    prefix: str
    folded: tuple[str, ...]
    dtypes: dict[str, int]
    extras: tuple[str, ...]
    note: str = ""
    recorded: tuple[str, float] | None = None


def read_weights(
    path: Path, *, masks: Path | None = None, choice: WeightSet = "", entry: Entry = ""
) -> dict[str, Tensor]:
    """Returns the tensors of a state dict in a file, without running any code in it.

    Args:
        path: safetensors, or what ``torch.save`` wrote (``.pt``, ``.pth``, ``.th``, ``.tar``): a state dict by
            itself, or under one of `WRAPPERS` beside other content. The format is identified by content.
        masks: A second such file, of zeros and ones under the names of weights, perhaps with ``_mask`` or
            ``.mask`` behind them; the weights are multiplied by them.
        choice: Which of two sets of weights, ``ema`` for averaged ones (`AVERAGED_WRAPPERS`); by default these where
            there are both, as timm's loader does it.
        entry: Which network of a file that holds several: its place in the list, or its key; empty where there is one.

    Returns:
        Keys without `PREFIXES`, dense finite tensors on the processor; half precision is widened to float32, and
        masks (`torch.nn.utils.prune`, distiller) are multiplied into the weights.

    Raises:
        CheckpointError: If there is no such file, it is damaged, it would run code, it holds no tensors,
            or one of them is NaN or infinite.
    """
    return read_checkpoint(path, masks=masks, choice=choice, entry=entry).weights


def read_checkpoint(
    path: Path, *, masks: Path | None = None, choice: WeightSet = "", entry: Entry = ""
) -> Checkpoint:
    """Returns the tensors that `read_weights` returns, and how they were written.

    Args:
        path: As for `read_weights`.
        masks: As for `read_weights`.
        choice: As for `read_weights`.
        entry: As for `read_weights`.

    Raises:
        CheckpointError: As for `read_weights`, or if there are no averaged weights where they are asked for, or no
            such entry.
    """
    file, content = _read(path)
    content, entry_note = single_network(path, content, entry)
    wrapper, tensors, set_note = _chosen_set(path, content, choice)
    _check_packed(path, content, wrapper)
    if not tensors:
        raise CheckpointError(
            f"weights {path}: found {_summary(content)}, expected a state dict of named tensors, "
            f"by itself or under one of {', '.join(WRAPPERS)}"
        )
    dense = _dense(file, tensors)
    prefix, weights = strip_prefixes(dense)
    notes = [entry_note, set_note, renamed_note(dense, prefix)]
    weights, folded = fold_parametrizations(path, weights)
    if distiller_masks := _distiller_masks(file, content):
        weights, folded = apply_masks(path, weights, distiller_masks), (*folded, *distiller_masks)
    if masks is not None:
        mask_tensors = _read_masks(masks)
        products = apply_masks(masks, weights, mask_tensors)
        notes.append(mask_doubt(masks, weights, mask_tensors))
        weights = products
    _check_finite(path, weights)
    dtypes = Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    extras = _extra_keys(content, wrapper, tensors)
    return Checkpoint(
        weights,
        file.format,
        file.size,
        ".".join(wrapper),
        prefix,
        folded,
        dict(dtypes),
        extras,
        " ".join(filter(None, notes)),
        recorded_accuracy(content),
    )


def _chosen_set(
    path: Path, content: object, choice: WeightSet
) -> tuple[tuple[str, ...], dict[str, Tensor], str]:
    """The keys that lead to the set of weights that is taken, its tensors, and a note if there are two sets."""
    wrapper, tensors = find_state_dict(content)
    averaged_wrapper, averaged = find_averaged(content)
    if not averaged:
        averaged_first, averaged, raw_first, raw = split_averaged(tensors)
        if averaged:
            averaged_wrapper, tensors = (*wrapper, averaged_first), raw
            wrapper = (*wrapper, raw_first) if raw_first else wrapper
    if not averaged:
        only_averaged = bool(wrapper) and wrapper[0] in AVERAGED_WRAPPERS
        if (choice == "ema" and not only_averaged) or (choice == "raw" and only_averaged):
            kinds = {"ema": "averaged", "raw": "raw"}
            raise CheckpointError(
                f"weights {path}: found no {kinds[choice]} weights ({choice}) beside "
                f"{'.'.join(wrapper) or 'the state dict'}, expected them under one of "
                f"{', '.join(AVERAGED_WRAPPERS if choice == 'ema' else WRAPPERS)}; leave the choice out"
            )
        return wrapper, tensors, ""
    names = {"raw": ".".join(wrapper) or "its top level", "ema": ".".join(averaged_wrapper)}
    taken, other = ("raw", "ema") if choice == "raw" else ("ema", "raw")
    note = (
        f"{path.name} holds raw weights ({names['raw']}) and averaged ones ({names['ema']}): those of {names[taken]} "
        f"were taken{'' if choice else ', as timm does it'}; --weights {other} takes the others."
    )
    return (wrapper, tensors, note) if taken == "raw" else (averaged_wrapper, averaged, note)


def may_hold_entry(path: Path, entry: Entry) -> bool:
    """Returns whether a file may hold several networks, one of them at a place or under a key; no tensor is read.

    Args:
        path: A file of weights.
        entry: The place or key.

    Raises:
        CheckpointError: If there is no such file, or it is damaged.
    """
    if not path.is_file():
        return False
    file = identify_file(path)
    return file.format != "safetensors" and str(entry) in scan_pickle(file).networks


def key_note(weights: Mapping[str, Tensor], module: nn.Module) -> str:
    """Returns a sentence on what `load_weights` ignores and renames of `weights`; empty if it takes them as they are.

    Args:
        weights: As `read_weights` returns them.
        module: The network that they are loaded into, of their widths.
    """
    names = unwrap_model(module).state_dict()
    kept, left_out = without_training_state(weights, names)
    match = key_match(kept, names)
    return replace(match, ignored=(*match.ignored, *left_out)).note()


def load_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copies `weights` into `module`, which they must fit exactly.

    `ALIASES` and prefixes are resolved, ``num_batches_tracked`` may be missing, half precision is widened.

    Args:
        module: A network, or one that `build_model` put behind its preprocessing.
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If a key is missing or unexpected, or a shape or kind of number differs.
    """
    network = unwrap_model(module)
    expected: dict[str, Tensor] = network.state_dict()
    weights, _ = without_training_state(weights, expected)
    matching = match_keys(weights, expected)
    for name, tensor in expected.items():
        if name.endswith(
            COUNTER
        ):  # unused in evaluation; averaging and other tools change its type and shape
            counter = matching.get(name, tensor)
            matching[name] = (
                counter.reshape(tensor.shape).to(tensor.dtype) if counter.numel() == 1 else tensor
            )
    check_class_count(module, weights)
    _check_quantised(matching, expected)
    _check_fit(matching, expected)
    state = OrderedDict(matching)
    state._metadata = getattr(expected, "_metadata", {})  # type: ignore[attr-defined]  # as torch does: layouts have versions
    network.load_state_dict(state)


def check_class_count(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Checks that the head in `weights` has as many classes as that of `module`; call it before any resizing.

    Args:
        module: As for `load_weights`; its last linear layer is the head.
        weights: As `read_weights` returns them.

    Raises:
        CheckpointError: If the numbers of classes differ.
    """
    expected: dict[str, Tensor] = unwrap_model(module).state_dict()
    heads = [name for name, tensor in expected.items() if tensor.dim() == 2 and name.endswith("weight")]
    head = match_keys(weights, expected).get(heads[-1]) if heads else None
    if head is not None and head.dim() == 2 and len(head) != len(expected[heads[-1]]):
        raise CheckpointError(
            f"the weights do not fit: the head {heads[-1]} in the file has {len(head)} classes, the model has "
            f"{len(expected[heads[-1]])} as the data set: name the data set that the weights were trained on"
        )


def _check_packed(path: Path, content: object, wrapper: tuple[str, ...]) -> None:
    """Refuses layers that torch quantised dynamically: their weights are no tensors of the state dict."""
    for key in wrapper:
        if (
            isinstance(content, Mapping) and key in content
        ):  # else it is the first part of the keys of one of two sets
            content = content[key]
    keys = content if isinstance(content, Mapping) else {}
    packed = [key for key in keys if isinstance(key, str) and "_packed_params" in key.split(".")]
    if packed:
        raise CheckpointError(
            f"weights {path}: {first_few([packed[0].partition('._packed_params')[0]])} is quantised (torch's dynamic "
            "quantisation), so its weight is no tensor of the state dict; save the weights before the quantisation, or "
            "export the quantised network as a whole program"
        )


def _read(path: Path) -> tuple[CheckpointFile, object]:
    """Returns the format of a file or of a model folder, and its content."""
    if is_model_folder(path):
        size = sum(file.stat().st_size for file in folder_files(path))
        return CheckpointFile(path, "model folder", size, {}), pretrained_network(path).state_dict()
    file = identify_file(path)
    try:
        content = safetensors.torch.load_file(path) if file.format == "safetensors" else _unpickle(file)
    except CheckpointError:
        raise
    except OSError as error:
        if error.errno == errno.EINVAL:  # a position in the file that cannot be
            raise damaged_file_error(path, error) from error
        raise CheckpointError(f"weights {path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # a malformed file fails in many ways, each of them a damaged file
        raise damaged_file_error(path, error) from error
    return file, content


def _dictionary(*_: object) -> dict[object, object]:
    """Returns what stands in for a ``defaultdict``, on which torch sets no items."""
    return {}


_FURTHER_DATA: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_dictionary, "collections.defaultdict"),
    dict,
    float,
    int,
    list,
]
"""What torch may unpickle beside its own list; `scan_pickle` refuses calls of them but for the first."""


def _unpickle(file: CheckpointFile) -> object:
    scan = scan_pickle(file)
    if scan.unsafe_globals or scan.protocol > _MAX_PROTOCOL:
        raise unsafe_pickle_error(file, scan)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_FURTHER_DATA):
            warnings.simplefilter("ignore")  # what torch warns of here is refused elsewhere, in one sentence
            return _plain(torch.load(file.path, map_location="cpu", weights_only=True), {})
    except pickle.UnpicklingError as error:
        if name := _GLOBAL.search(str(error)):  # an older torch takes less for data than `scan_pickle` does
            scan.unsafe_globals.append(name[1])
            raise unsafe_pickle_error(file, scan) from error
        raise


def _plain(content: object, done: dict[int, object], depth: int = 0) -> object:
    """Returns the content with plain tensors and dictionaries: a pickle may set any attribute of a tensor.

    Args:
        content: As torch unpickled it; it may contain itself.
        done: What was made of each dictionary and list that was met.
        depth: How many dictionaries and lists are around it.
    """
    if isinstance(content, Tensor):
        return Tensor.detach(content)  # not its own ``detach``, which may be anything
    if not isinstance(content, Mapping | list | tuple) or depth > _MAX_DEPTH:
        return content
    if id(content) not in done:
        copy: dict[object, object] | list[object] = {} if isinstance(content, Mapping) else []
        done[id(content)] = copy
        if isinstance(copy, dict) and isinstance(content, Mapping):
            copy.update((key, _plain(value, done, depth + 1)) for key, value in content.items())
        elif isinstance(copy, list):
            copy.extend(_plain(value, done, depth + 1) for value in content)
    return done[id(content)]


def _read_masks(path: Path) -> dict[str, Tensor]:
    file, content = _read(path)
    wrappers = (*MASK_WRAPPERS, *WRAPPERS)
    while isinstance(content, Mapping) and (key := next((name for name in wrappers if name in content), "")):
        content = content[key] if isinstance(content[key], Mapping) else None
    return strip_prefixes(_dense(file, _flat(content)))[1]


def _flat(content: object, depth: int = 8) -> dict[str, Tensor]:
    """Returns the tensors in nested dictionaries, by their keys joined with dots."""
    tensors: dict[str, Tensor] = {}
    for key, value in content.items() if isinstance(content, Mapping) and depth else ():
        if isinstance(key, str) and isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(key, str):
            tensors |= {f"{key}.{name}": tensor for name, tensor in _flat(value, depth - 1).items()}
    return tensors


def _distiller_masks(file: CheckpointFile, content: object) -> dict[str, Tensor]:
    """Returns the masks that distiller keeps beside a state dict; empty if there are none."""
    schedule = content.get("compression_sched") if isinstance(content, Mapping) else None
    if not isinstance(schedule, Mapping) or not isinstance(schedule.get("masks_dict"), Mapping):
        return {}
    return strip_prefixes(_dense(file, find_state_dict(schedule["masks_dict"], ())[1]))[1]


def _dense(file: CheckpointFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors ready for computing: no gradient, half precision widened."""
    declared = sum(tensor.numel() * max(4, tensor.element_size()) for tensor in tensors.values())
    check_unpacked_size(file.path, file.size, declared)  # a view may repeat one number for ever
    return {key: _widened(file.path, key, tensor.detach()) for key, tensor in tensors.items()}


def _widened(path: Path, name: str, tensor: Tensor) -> Tensor:
    is_dense = not (
        tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
    )
    if is_dense:
        try:
            return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor
        except (RuntimeError, NotImplementedError):  # a type of number that torch can store but not convert
            pass
    kind = "quantised" if tensor.is_quantized else tensor.layout
    raise CheckpointError(
        f"weights {path}: {first_few([name])} is a {kind} tensor of {tensor.dtype} on {tensor.device}, "
        "expected dense real numbers: convert it before saving"
    )


def _extra_keys(content: object, wrapper: tuple[str, ...], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    keys = content if isinstance(content, Mapping) else {}
    taken = tuple(f"{part}." for part in wrapper[:1])
    others = (key for key in keys if key not in wrapper[:1] and (wrapper or key not in tensors))
    return tuple(first_few([key]) for key in others if not (isinstance(key, str) and key.startswith(taken)))


def _summary(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    kind = "weights" if any(isinstance(value, Tensor) for value in content.values()) else "tensors"
    return f"a dictionary without {kind} (keys: {first_few(content) or 'none'})"


def _check_finite(path: Path, weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if count := tensor.numel() - int(torch.isfinite(tensor).sum()):
            raise CheckpointError(
                f"weights {path}: {first_few([name])} holds {count} NaN or infinite values of {tensor.numel()}; "
                "the training diverged or the file is damaged"
            )


def _check_quantised(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuses integers of few bits in place of numbers, as bitsandbytes, GPTQ, AWQ and exporters of ONNX save them."""
    levels = [
        name
        for name, tensor in weights.items()
        if tensor.dtype in _LEVELS
        and (
            expected[name].is_floating_point()
            if name in expected
            else name.rpartition(".")[2] in _QUANTISED_KEYS
        )
    ]
    if levels:
        raise CheckpointError(
            f"the weights are quantised: {first_few(levels)} {'holds' if len(levels) == 1 else 'hold'} levels of "
            f"{str(weights[levels[0]].dtype).removeprefix('torch.')}, whose scales another library applies; save the "
            "weights before the quantisation, or export the quantised network as a whole program"
        )


def _check_fit(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    shared = [name for name in expected if name in weights]
    differences = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} (file {tuple(weights[name].shape)}, model {tuple(expected[name].shape)})"
            for name in shared
            if weights[name].shape != expected[name].shape
        ],
        "of another kind of number": [
            f"{name} (file {weights[name].dtype}, model {expected[name].dtype})"
            for name in shared
            if weights[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if any(differences.values()):
        text = "; ".join(f"{kind}: {first_few(names)}" for kind, names in differences.items() if names)
        raise CheckpointError(
            f"the weights do not fit the model: {text}; "
            "name the architecture and the settings that the weights were trained with"
        )

"""Reads a generator's weights from every container that they are published in.

A checkpoint is untrusted input. Its pickle is read as data (`pickles.py`): nothing that it names is
imported or called. TorchScript's code is never loaded.
"""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from ...paths import not_a_file
from .errors import CheckpointError, UnsafeCheckpointError, one_line
from .files import read_archive, read_legacy
from .layout import STEM, first_few
from .pickles import StandIn, StoredTensor
from .storages import DTYPES, Numbers

#: Modules around a generator, in any combination: GAN code, trainers, exporters. Those of averaged
#: weights may have any name that says so.
_AROUND = {"model", "net", "netG", "net_g", "generator", "gen", "G"}

#: Words in the names of averaged weights: `params_ema`, `generator_average`, `swa_model`.
_AVERAGED = {"ema", "swa", "average", "averaged", "avg", "shadow"}

#: Words with which such a name says something else: `model_no_ema`, Adam's `exp_avg`.
_NOT_AVERAGED = {"no", "non", "not", "without", "exp"}

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

#: Modules that stand anywhere around others: torch.compile, DataParallel, FSDP, Fabric.
_WRAPPERS = {
    "_orig_mod",
    "module",
    "_forward_module",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
}

#: Containers by their keys; of several, the first counts, but averaged weights before all others.
_CONTAINERS = ("", "gen_state_dict", "state_dict", "params_ema", "ema", "params")

#: A batch norm's counter of trained batches.
_COUNTER = "num_batches_tracked"

_WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: A TorchScript file has some thousand attributes; a hostile one can nest without end.
_MOST_ATTRIBUTES = 100_000

#: Dicts in a file that are searched for a generator, and how deep; a training's have a few dozen.
_MOST_PLACES = 1000
_DEPTH = 4

#: Files that people take for a checkpoint, by their first bytes.
_OTHER_FILES = (
    (b"version https://git-lfs", "a Git LFS pointer, not the weights; run `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive: unpack it, and name the checkpoint in it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it, and name the checkpoint in it"),
    (b"Rar!", "a RAR archive: unpack it, and name the checkpoint in it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive: unpack it, and name the checkpoint in it"),
    (b"\xfd7zXZ", "an xz archive: unpack it, and name the checkpoint in it"),
    (b"\x89HDF", "an HDF5 file of Keras or MATLAB; weights of PyTorch are needed"),
)


class _Content(NamedTuple):
    """What a file holds, with the numbers of the tensors that are only described in it."""

    loaded: Any
    numbers: Numbers | None = None


class _Place(NamedTuple):
    """A generator in a file: the dict's dotted key, what stands before its keys, and the dict."""

    key: str
    prefix: str
    values: Mapping[Any, object]

    @property
    def path(self) -> str:
        return ".".join(filter(None, (self.key, self.prefix.removesuffix("."))))

    @property
    def rank(self) -> tuple[int, int]:
        """Less is better."""
        averaged = sum(map(_is_averaged, self.path.split(".")))
        known = self.key in _CONTAINERS
        return -averaged, _CONTAINERS.index(self.key) if known else len(_CONTAINERS)


def read_generator_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The generator's state dict under canonical keys (`model.1.ffc.convl2l.weight`, …), on CPU.

    Weights become float32, `num_batches_tracked` int64, 0 where the file has none. What lies beside
    the generator, other networks and objects that are no tensors, is left out. Raises
    CheckpointError, one line, where the file is damaged, foreign or holds no generator, and
    UnsafeCheckpointError where it names something that could run.
    """
    path = Path(path)
    try:
        content = _read_file(path)
        tensors = _generator_in(content.loaded)
        if sum(math.prod(tensor.shape) for tensor in tensors.values()) > path.stat().st_size:
            # A stride of 0 makes any number of elements out of one.
            raise UnsafeCheckpointError("its tensors claim more elements than the file has bytes")
        state = {
            key: _normalised(key, _tensor(tensor, content.numbers))
            for key, tensor in tensors.items()
        }
        for key in list(state):
            if key.endswith(".running_mean"):
                # Some exporters leave the counter out. Only training has a use for it.
                counter = f"{key.removesuffix('running_mean')}{_COUNTER}"
                state.setdefault(counter, torch.zeros((), dtype=torch.int64))
        return state
    except CheckpointError as error:
        raise type(error)(f"{path}: {one_line(error)}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error


def _read_file(path: Path) -> _Content:
    if what := not_a_file(path):
        raise CheckpointError(f"{what}; the weights (best.ckpt) are needed")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise CheckpointError("empty file; download it again")
    for start, what in _OTHER_FILES:
        if head.startswith(start):
            raise CheckpointError(what)
    if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
        raise CheckpointError("a web page, not the weights; download it again")
    try:
        if head.startswith(b"PK\x03\x04"):
            return _Content(*read_archive(path))
        # Before the pickle's mark: a safetensors header may well be 128 bytes longer than 256·n.
        if head[8:9] == b"{":
            return _Content(safetensors.torch.load_file(path))
        if head.startswith(b"\x80"):
            return _Content(*read_legacy(path))
    except (CheckpointError, OSError):
        raise
    except Exception as error:
        # A damaged file can fail in any way; a traceback would not help the user.
        raise _damaged(error) from error
    raise CheckpointError(f"not a checkpoint: it begins with {head[:8]!r}")


# -- finding the generator --------------------------------------------------------------------


def _generator_in(loaded: object) -> dict[str, Tensor | StoredTensor]:
    """The tensors of the generator in the file, under their own names."""
    mapping = _mapping(loaded)
    if mapping is None:
        raise CheckpointError(f"holds {_a(loaded)}, not a state dict")
    if "str_state_dict" in mapping:
        raise CheckpointError(
            "has a str_state_dict beside its generator: a structure-guided network, which this "
            "isn't; take a checkpoint without one"
        )
    for key in ("gen_state_dict", "state_dict"):
        if key in mapping and _mapping(mapping[key]) is None:
            raise CheckpointError(f"its {key} is {_a(mapping[key])}, not a state dict")
    found = [
        _Place(key, prefix, values)
        for key, values in _dicts(mapping)
        for prefix in _prefixes(map(_unwrapped, values))
    ]
    if not found and not mapping and isinstance(loaded, StandIn):
        raise CheckpointError(
            "a module without tensors: a frozen TorchScript module has them in its code, which is "
            "never read; take the file that it was made from"
        )
    if not found:
        raise CheckpointError(f"holds no generator ({STEM}); its keys: {first_few(mapping)}")
    best = _best(found)
    if len(best) > 1:
        raise CheckpointError(
            f"holds several generators: {first_few(place.path for place in best)}; save one alone"
        )
    tensors = _canonical(best[0])
    plain = _best([place for place in found if not place.rank[0]])
    if best[0].rank[0] and len(plain) == 1:
        # Averages of the parameters alone are used with the network's own statistics.
        for key, tensor in _canonical(plain[0]).items():
            norm, _, name = key.rpartition(".")
            if name in ("running_mean", "running_var") and f"{norm}.weight" in tensors:
                tensors.setdefault(key, tensor)
    return tensors


def _best(found: Iterable[_Place]) -> list[_Place]:
    """The places that come before all others; in one dict, the one with the shortest prefix."""
    first = min((place.rank for place in found), default=None)
    tied = [place for place in found if place.rank == first]
    if len({place.key for place in tied}) > 1:
        return tied
    shortest = min((len(place.prefix) for place in tied), default=0)
    return [place for place in tied if len(place.prefix) == shortest]


def _is_averaged(name: str) -> bool:
    words = {word.lower() for word in _WORD.findall(name)}
    return bool(words & _AVERAGED) and not words & _NOT_AVERAGED


def _dicts(root: Mapping[Any, object]) -> Iterator[tuple[str, Mapping[Any, object]]]:
    """The mapping itself, and those below its keys and theirs, by dotted key; each of them once."""
    waiting: deque[tuple[str, Mapping[Any, object], int]] = deque([("", root, 0)])
    seen: set[int] = set()
    while waiting:
        key, values, depth = waiting.popleft()
        yield key, values
        for name, value in values.items() if depth < _DEPTH else ():
            if not isinstance(name, str) or id(value) in seen or len(seen) >= _MOST_PLACES:
                continue
            if (inner := _mapping(value)) is not None:
                seen.add(id(value))
                waiting.append((f"{key}.{name}" if key else name, inner, depth + 1))


def _mapping(value: object) -> Mapping[Any, object] | None:
    """A dict, or what has the form of one: a foreign dict, or a pickled module's tensors."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, StandIn):
        if value.items:
            return value.items
        if value.name.startswith("__torch__.") or _is_module(value):
            return _attributes(value)
    return None


def _is_module(value: StandIn) -> bool:
    return isinstance(value.state, dict) and "_modules" in value.state


def _attributes(root: StandIn) -> dict[str, object]:
    """The tensors in a tree of modules, of TorchScript or pickled, by dotted name."""
    tensors: dict[str, object] = {}
    open_modules: list[tuple[str, object]] = [("", root.state)]
    seen = 0
    while open_modules:
        prefix, state = open_modules.pop()
        for name, value in (state if isinstance(state, dict) else {}).items():
            seen += 1
            if seen > _MOST_ATTRIBUTES:
                raise UnsafeCheckpointError(f"has more than {_MOST_ATTRIBUTES} attributes")
            if name in ("_parameters", "_buffers", "_modules"):
                open_modules.append((prefix, value))
            elif isinstance(value, StoredTensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, StandIn):
                open_modules.append((f"{prefix}{name}.", value.state))
    return tensors


def _unwrapped(key: object) -> str:
    """A key without the names of wrappers in it; empty if it is no name."""
    if not isinstance(key, str):
        return ""
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _prefixes(keys: Iterable[str]) -> set[str]:
    """What stands before the keys of each generator."""
    stems = {key.removesuffix(STEM) for key in keys if key.endswith(STEM)}
    return {
        stem
        for stem in stems
        if all(name in _AROUND or _is_averaged(name) for name in stem.split(".")[:-1])
        and (not stem or stem.endswith("."))
    }


def _canonical(place: _Place) -> dict[str, Tensor | StoredTensor]:
    """The generator's tensors under their own names."""
    named: dict[str, Tensor | StoredTensor] = {}
    for key, value in place.values.items():
        unwrapped = _unwrapped(key)
        # A number, or a wrapper's name alone, is a surplus key by that name.
        name = unwrapped.removeprefix(place.prefix) or str(key)
        if not unwrapped.startswith(place.prefix) or _is_count(name, value):
            continue
        if name in named:
            raise CheckpointError(f"has {name} under two names, one of them {key}; save one alone")
        if isinstance(value, (Tensor, StoredTensor)):
            named[name] = value
        elif name.startswith("model."):
            raise CheckpointError(f"{key} is {_a(value)}, not a tensor")
    return named


def _is_count(name: str, value: object) -> bool:
    """Whether it is one whole number beside the network: `n_averaged` of AveragedModel."""
    if isinstance(value, StoredTensor):
        dtype = DTYPES.get(value.storage.kind, torch.float32)
    elif isinstance(value, Tensor):
        dtype = value.dtype
    else:
        return False
    is_whole = not dtype.is_floating_point and not dtype.is_complex
    return is_whole and math.prod(value.shape) == 1 and not name.startswith("model.")


# -- tensors ----------------------------------------------------------------------------------


def _tensor(value: Tensor | StoredTensor, numbers: Numbers | None) -> Tensor:
    if isinstance(value, Tensor):
        return value
    assert numbers is not None
    try:
        return numbers.tensor(value)
    except CheckpointError:
        raise
    except Exception as error:
        raise _damaged(error) from error


def _normalised(key: str, tensor: Tensor) -> Tensor:
    """A weight as float32 (counters int64) in its own memory; refuses other values."""
    tensor = tensor.detach()
    if key.endswith(_COUNTER):
        tensor = tensor.to(torch.int64, copy=True)
        return tensor.reshape(()) if tensor.numel() == 1 else tensor
    if tensor.dtype not in _WEIGHT_DTYPES:
        raise CheckpointError(f"{key} has dtype {tensor.dtype}; floating-point weights are needed")
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{key} has values that are not finite: a broken training or copy")
    return tensor


def _a(value: object) -> str:
    """What a value is, by the class that it had where it was saved."""
    if isinstance(value, StandIn):
        return f"a {value.name[:80]}"
    return "a Tensor" if isinstance(value, StoredTensor) else f"a {type(value).__name__}"


def _damaged(error: BaseException) -> CheckpointError:
    reason = one_line(error)[:200]
    return CheckpointError(
        f"damaged, incomplete or not a checkpoint ({reason}); copy or download it again"
    )

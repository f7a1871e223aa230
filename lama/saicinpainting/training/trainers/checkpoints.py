"""Reads a generator's weights from every container that they are published in.

A checkpoint is untrusted input. Each pickle is read twice: first its opcodes only, for the names
it would import, then by torch's restricted unpickler, in which every name outside torch is replaced
by a class of this file that does nothing. TorchScript's code is never loaded.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from .errors import CheckpointError, UnsafeCheckpointError

#: The first weight of every generator; the text in front of it is the container's prefix.
STEM = "model.1.ffc.convl2l.weight"

#: Wrappers around a generator, in any combination: DataParallel, GAN code, trainers, exporters.
_PREFIX = re.compile(r"(?:(?:model|module|netG|generator)\.)*")

_WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

#: A TorchScript file has some thousand attributes; a hostile one can nest without end.
_MOST_ATTRIBUTES = 100_000

_TENSOR_GLOBALS = {
    "collections.OrderedDict",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "torch.ShortStorage",
    "torch.CharStorage",
    "torch.ByteStorage",
    "torch.BoolStorage",
}


class StandIn:
    """The stand-in for any foreign class: it keeps the state that the pickle gives it."""

    def __init__(self, *args: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state


def _empty_dict(*args: object) -> dict[Any, Any]:
    """A plain dict for any defaultdict, as the restricted unpickler fills nothing else."""
    return {}


def _first_argument(value: object, *others: object) -> object:
    """The stand-in for TorchScript's functions that wrap a list to remember its items' type."""
    return value


#: Names in Lightning and TorchScript files, and their stand-ins.
_STAND_INS: dict[str, Any] = {
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint": StandIn,
    "omegaconf.base.Metadata": StandIn,
    "omegaconf.base.ContainerMetadata": StandIn,
    "omegaconf.nodes.AnyNode": StandIn,
    "omegaconf.dictconfig.DictConfig": StandIn,
    "omegaconf.listconfig.ListConfig": StandIn,
    "typing.Any": StandIn,
    "collections.defaultdict": _empty_dict,
    "builtins.dict": dict,
    "builtins.list": list,
    "builtins.int": int,
    "torch.jit._pickle.build_intlist": _first_argument,
    "torch.jit._pickle.build_doublelist": _first_argument,
    "torch.jit._pickle.build_boollist": _first_argument,
    "torch.jit._pickle.build_tensorlist": _first_argument,
    "torch.jit._pickle.restore_type_tag": _first_argument,
}


def read_generator_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The generator's state dict under canonical keys (`model.1.ffc.convl2l.weight`, …), on CPU.

    Weights become float32, `num_batches_tracked` int64. Lightning and TorchScript files hold more
    than a generator, and the rest is left out; of the other containers every key is returned.
    Raises CheckpointError, one line, where the file is damaged, foreign or holds no generator, and
    UnsafeCheckpointError where it names an import that weights do not need.
    """
    path = Path(path)
    try:
        tensors = _canonical(_read_container(path))
        if sum(tensor.numel() for tensor in tensors.values()) > path.stat().st_size:
            # A stride of 0 makes any number of elements out of one.
            raise UnsafeCheckpointError("its tensors claim more elements than the file has bytes")
        return {key: _normalised(key, tensor) for key, tensor in tensors.items()}
    except CheckpointError as error:
        raise type(error)(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: can't be read: {error.strerror or error}") from error


def _read_container(path: Path) -> tuple[Mapping[Any, Any], bool]:
    """All named tensors of the file, and whether everything in it must belong to the generator."""
    if not path.exists():
        raise CheckpointError("no such file; the weights (best.ckpt) are needed")
    if not path.is_file():
        raise CheckpointError("not a file; name the checkpoint itself, not its folder")
    with path.open("rb") as file:
        head = file.read(64)
        if not head:
            raise CheckpointError("empty file; download it again")
        if head.startswith(b"version https://git-lfs"):
            raise CheckpointError("a Git LFS pointer, not the weights; run `git lfs pull`")
        if head.lstrip().lower().startswith((b"<!doctype", b"<html")):
            raise CheckpointError("a web page, not the weights; download it again")
        if head.startswith(b"PK\x03\x04"):
            return _read_archive(path)
        # Before the pickle's mark: a safetensors header may well be 128 bytes longer than 256·n.
        if head[8:9] == b"{":
            return _read_safetensors(path)
        if head.startswith(b"\x80"):
            return _read_legacy(file)
    raise CheckpointError(f"not a checkpoint: it begins with {head[:8]!r}")


def _read_safetensors(path: Path) -> tuple[Mapping[Any, Any], bool]:
    try:
        return safetensors.torch.load_file(path), True
    except OSError:
        raise
    except Exception as error:
        raise _damaged(error) from error


def _read_legacy(file: IO[bytes]) -> tuple[Mapping[Any, Any], bool]:
    """A file of torch before 1.6: magic number, version, system, object, storage keys, data."""
    file.seek(0)
    names: set[str] = set()
    for _ in range(5):
        names |= _checked_names(file)
    file.seek(0)
    return _from_object(_unpickle(file, names))


def _read_archive(path: Path) -> tuple[Mapping[Any, Any], bool]:
    """What torch.save and torch.jit.save write: a zip of data.pkl and one file per tensor."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            root = entries[0].filename.partition("/")[0] if entries else ""
            script = any(entry.filename == f"{root}/constants.pkl" for entry in entries)
            if script:
                # The code, which torch.jit.save compresses, is not looked at.
                pattern = re.compile(re.escape(root) + "/(data.pkl|data/[0-9]+|version|byteorder)")
                entries = [entry for entry in entries if pattern.fullmatch(entry.filename)]
            _check_entries(entries, path.stat().st_size)
            if f"{root}/data.pkl" not in archive.NameToInfo:
                raise CheckpointError("a zip archive without data.pkl: not a checkpoint")
            names = _checked_names(io.BytesIO(archive.read(f"{root}/data.pkl")))
            if not script:
                # Given a path, torch goes by this suffix and not by the content.
                misnamed = path.suffix == ".safetensors"
                source = io.BytesIO(path.read_bytes()) if misnamed else path
                return _from_object(_unpickle(source, names))
            repacked = io.BytesIO()
            with zipfile.ZipFile(repacked, "w") as copy:
                for entry in entries:
                    copy.writestr(entry.filename, archive.read(entry))
    except (CheckpointError, OSError):
        raise
    except Exception as error:
        raise _damaged(error) from error
    repacked.seek(0)
    return _attributes(_unpickle(repacked, names)), False


def _check_entries(entries: list[zipfile.ZipInfo], file_size: int) -> None:
    """Refuses a zip that unpacks to more than the file holds, or that can be read in two ways."""
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnsafeCheckpointError(
                f"its entry {entry.filename} is compressed; torch writes none that way"
            )
    total = sum(entry.file_size for entry in entries)
    if total > file_size:
        raise UnsafeCheckpointError(f"its entries claim {total} bytes, the file has {file_size}")
    if len({entry.filename for entry in entries}) < len(entries):
        raise UnsafeCheckpointError("two of its entries have the same name")


def _checked_names(stream: IO[bytes]) -> set[str]:
    """Reads one pickle's opcodes, running none: the names it would import, if all are allowed."""
    names: set[str] = set()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "GLOBAL":
                dotted = str(argument).replace(" ", ".", 1)
                # Pickle protocol 2 still writes Python 2's names.
                dotted = re.sub(r"^__builtin__\.", "builtins.", dotted)
                dotted = dotted.replace("builtins.long", "builtins.int")
                if not _is_allowed(dotted):
                    raise UnsafeCheckpointError(f"it wants to import {dotted}: refused, not run")
                names.add(dotted)
            elif opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                what = f" {argument.replace(' ', '.')}" if isinstance(argument, str) else ""
                raise UnsafeCheckpointError(
                    f"it wants to import{what} by opcode {opcode.name}: refused, not run"
                )
            elif opcode.name == "PROTO" and argument != 2:
                raise UnsafeCheckpointError(f"pickle protocol {argument}; torch.save writes 2")
    except (ValueError, UnicodeError) as error:
        raise _damaged(error) from error
    return names


def _is_allowed(name: str) -> bool:
    return name in _TENSOR_GLOBALS or name in _STAND_INS or name.startswith("__torch__.")


def _unpickle(source: Path | IO[bytes], names: Iterable[str]) -> object:
    """torch.load in its restricted mode, with stand-ins for the foreign ones of `names`."""
    # A path is mapped, so that optimizer and discriminator are never read from disk.
    mmap = isinstance(source, Path)
    replaced: list[Any] = [
        (_STAND_INS.get(name, StandIn), name) for name in names if name not in _TENSOR_GLOBALS
    ]
    try:
        with torch.serialization.safe_globals(replaced):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        # A damaged pickle can fail in any way; a traceback would not help the user.
        raise _damaged(error) from error


def _from_object(loaded: object) -> tuple[Mapping[Any, Any], bool]:
    """The tensors in a container of torch.save, which its keys identify."""
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"holds {_a(loaded)}, not a state dict")
    if "str_state_dict" in loaded:
        raise CheckpointError(
            "has a str_state_dict beside its generator: a structure-guided network, which this "
            "isn't; take a checkpoint without one"
        )
    for key, whole in (("gen_state_dict", True), ("state_dict", False)):
        if key in loaded:
            if not isinstance(loaded[key], Mapping):
                raise CheckpointError(f"its {key} is {_a(loaded[key])}, not a state dict")
            return loaded[key], whole
    return loaded, True


def _attributes(root: object) -> Mapping[str, Tensor]:
    """The tensors in a tree of TorchScript modules, by dotted name."""
    tensors: dict[str, Tensor] = {}
    open_modules = [("", root)]
    seen = 0
    while open_modules:
        prefix, module = open_modules.pop()
        state = module.state if isinstance(module, StandIn) else None
        for name, value in (state if isinstance(state, dict) else {}).items():
            seen += 1
            if seen > _MOST_ATTRIBUTES:
                raise UnsafeCheckpointError(f"has more than {_MOST_ATTRIBUTES} attributes")
            if isinstance(value, Tensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, StandIn):
                open_modules.append((f"{prefix}{name}.", value))
    return tensors


def _canonical(container: tuple[Mapping[Any, Any], bool]) -> dict[str, Tensor]:
    """The generator's tensors without the prefix; a `whole` container keeps its other keys."""
    tensors, whole = container
    keys = [str(key) for key in tensors]
    prefixes = [key.removesuffix(STEM) for key in keys if key.endswith(STEM)]
    prefix = min(filter(_PREFIX.fullmatch, prefixes), key=len, default=None)
    if prefix is None:
        raise CheckpointError(f"holds no generator ({STEM}); its keys: {first_few(keys)}")
    named: dict[str, Tensor] = {}
    for key, value in zip(keys, tensors.values(), strict=True):
        if key.startswith(prefix) or whole:
            if not isinstance(value, Tensor):
                raise CheckpointError(f"{key} is {_a(value)}, not a tensor")
            named[key.removeprefix(prefix)] = value
    return named


def _normalised(key: str, tensor: Tensor) -> Tensor:
    """A weight as float32 (counters int64) in its own memory; refuses other values."""
    tensor = tensor.detach()
    if key.endswith("num_batches_tracked"):
        return tensor.to(torch.int64, copy=True)
    if tensor.dtype not in _WEIGHT_DTYPES:
        raise CheckpointError(f"{key} has dtype {tensor.dtype}; floating-point weights are needed")
    tensor = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{key} has values that are not finite: a broken training or copy")
    return tensor


def first_few(names: Iterable[str], most: int = 3) -> str:
    """`a, b, c, … (7 in all)`: names for a message of one line."""
    listed = list(names)
    text = ", ".join(name[:80] for name in listed[:most]) or "none"
    return text if len(listed) <= most else f"{text}, … ({len(listed)} in all)"


def _a(value: object) -> str:
    return f"a {type(value).__name__}"


def _damaged(error: BaseException) -> CheckpointError:
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return CheckpointError(f"damaged, incomplete or not a checkpoint ({reason}); download it again")

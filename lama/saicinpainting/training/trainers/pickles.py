"""Reads a checkpoint's pickle as data: nothing that it names is imported, made or called.

A pickle is a program for a small machine with a stack, and Python's unpickler imports and calls
what the program names. This reader runs the same program, but where it would call something it only
notes the name and the arguments. Tensors are noted too; their numbers are read later.
"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from typing import IO, Any, NamedTuple

from .errors import UnsafeCheckpointError
from .names import could_run, dotted

#: Calls that give a plain dict here; what fills it comes afterwards.
_DICTS = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}

_TENSORS = {"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"}

#: Calls whose first argument is the tensor itself.
_WRAPPED_TENSORS = {
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor",
    "torch.nn.parameter.Parameter",
}

#: Opcodes that neither read the stack nor change it.
_IGNORED = {"PROTO", "FRAME"}

_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

_SAVE_ALONE = 'save the weights alone: torch.save(model.state_dict(), "weights.pth")'


class Name(NamedTuple):
    """A class or function that the pickle names; it is never looked up."""

    dotted: str


@dataclass(eq=False)
class StandIn:
    """A foreign object, as data: its class, and what the pickle would have given it."""

    name: str
    items: dict[Any, Any] = field(default_factory=dict)
    state: object = None


@dataclass(frozen=True)
class Storage:
    """Numbers in the file: their type (`FloatStorage`), key, count and the first one's place."""

    kind: str
    key: str
    count: int
    start: int = 0


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose numbers are still in the file."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class PickleReader:
    """Reads pickles from a file, one after another; `storages` are all that they have named."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.storages: dict[str, Storage] = {}
        self._stream = stream

    def read(self) -> Any:
        """The next pickle's content: plain types, StoredTensor, StandIn, Name.

        Raises UnsafeCheckpointError for a name that could run something; for a damaged pickle
        any exception.
        """
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(self._stream):
            if opcode.name == "STOP":
                return self._stack.pop()
            self._step(opcode.name, argument)
        raise ValueError("the pickle has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode.endswith("PUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode.endswith("GET"):
            stack.append(self._memo[argument])
        elif handler := getattr(self, f"_{opcode.lower()}", None):
            # The handlers below are methods of this class, and the opcodes are pickletools' own.
            handler(argument)
        elif opcode.startswith("EXT"):
            raise UnsafeCheckpointError(
                f"it wants to import by opcode {opcode}: refused, not run; {_SAVE_ALONE}"
            )
        elif argument is not None and not opcode.endswith(("PERSID", "BUFFER")):
            if opcode not in _IGNORED:
                stack.append(argument)
        else:
            raise ValueError(f"opcode {opcode} has no place in a checkpoint")

    # -- names and calls ----------------------------------------------------------------------

    def _global(self, argument: str) -> None:
        self._stack.append(_checked(*argument.split(" ", 1)))

    def _stack_global(self, argument: None) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        self._stack.append(_checked(str(module), str(name)))

    def _inst(self, argument: str) -> None:
        name = _checked(*argument.split(" ", 1))
        self._stack.append(_called(name, tuple(self._above_mark())))

    def _obj(self, argument: None) -> None:
        what, *arguments = self._above_mark()
        self._stack.append(_called(what, tuple(arguments)))

    def _reduce(self, argument: None) -> None:
        arguments = self._stack.pop()
        self._stack.append(_called(self._stack.pop(), arguments))

    _newobj = _reduce

    def _newobj_ex(self, argument: None) -> None:
        self._stack.pop()
        self._reduce(None)

    def _build(self, argument: None) -> None:
        state = self._stack.pop()
        if isinstance(self._stack[-1], StandIn):
            self._stack[-1].state = state

    def _binpersid(self, argument: None) -> None:
        """Where a tensor's numbers are: ("storage", type, key, device, count, part of it)."""
        kind, storage, *where = self._stack.pop()
        if kind == "module":
            # The older format names a module's class in this way, with its source.
            self._stack.append(storage)
            return
        key, _, count, *part = where
        start = 0
        if part and part[0] is not None:
            _, start, count = part[0]
        if kind != "storage" or not isinstance(storage, Name):
            raise ValueError("it refers to something outside that is no storage")
        found = Storage(storage.dotted.rpartition(".")[2], str(key), int(count), int(start))
        self.storages[found.key] = found
        self._stack.append(found)

    # -- lists, dicts and tuples --------------------------------------------------------------

    def _above_mark(self) -> list[Any]:
        mark = self._marks.pop()
        above = self._stack[mark:]
        del self._stack[mark:]
        return above

    def _mark(self, argument: None) -> None:
        self._marks.append(len(self._stack))

    def _pop_mark(self, argument: None) -> None:
        self._above_mark()

    def _pop(self, argument: None) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _dup(self, argument: None) -> None:
        self._stack.append(self._stack[-1])

    def _empty_list(self, argument: None) -> None:
        self._stack.append([])

    # Sets become lists: a stand-in need not be hashable.
    _empty_set = _empty_list

    def _list(self, argument: None) -> None:
        self._stack.append(self._above_mark())

    _frozenset = _list

    def _append(self, argument: None) -> None:
        self._extend([self._stack.pop()])

    def _appends(self, argument: None) -> None:
        self._extend(self._above_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        if isinstance(self._stack[-1], list):
            self._stack[-1].extend(items)

    def _empty_dict(self, argument: None) -> None:
        self._stack.append({})

    def _dict(self, argument: None) -> None:
        self._stack.append(_pairs(self._above_mark()))

    def _setitem(self, argument: None) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _setitems(self, argument: None) -> None:
        self._set(self._above_mark())

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, StandIn):
            target.items.update(_pairs(items))
        elif isinstance(target, dict):
            target.update(_pairs(items))

    def _tuple(self, argument: None) -> None:
        self._stack.append(tuple(self._above_mark()))

    def _tuple1(self, argument: None) -> None:
        self._last(1)

    def _tuple2(self, argument: None) -> None:
        self._last(2)

    def _tuple3(self, argument: None) -> None:
        self._last(3)

    def _last(self, count: int) -> None:
        items = tuple(self._stack.pop() for _ in range(count))
        self._stack.append(items[::-1])


def _checked(module: str, name: str) -> Name:
    found = dotted(module, name)
    if could_run(found):
        raise UnsafeCheckpointError(
            f"it names {found[:80]!r}, which could run something: refused, nothing of it ran; "
            f"{_SAVE_ALONE}"
        )
    return Name(found)


def _called(what: object, arguments: Any) -> Any:
    """What stands for the result of a call; no call is made."""
    name = what.dotted if isinstance(what, Name) else "an object"
    if not isinstance(arguments, tuple):
        raise ValueError(f"{name} is called with no tuple")
    if name in _TENSORS:
        storage, offset, shape, strides = arguments[:4]
        if not isinstance(storage, Storage) or not _are_counts((offset, *shape, *strides)):
            raise ValueError("a tensor without a storage, size or stride")
        return StoredTensor(storage, offset, tuple(shape), tuple(strides))
    if name in _WRAPPED_TENSORS and arguments:
        return arguments[0]
    if name == "torch._tensor._rebuild_from_type_v2":
        return _called(arguments[0], arguments[2])
    if name in _DICTS:
        # Python 2 pickles an OrderedDict with its pairs.
        pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
        return _pairs([part for pair in pairs for part in pair])
    return StandIn(name)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    """A dict of keys and values in turn; only names and numbers are kept as keys.

    Others hash what the file has nested in them.
    """
    pairs = zip(items[::2], items[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, (str, int))}


def _are_counts(values: tuple[Any, ...]) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 48 for value in values)

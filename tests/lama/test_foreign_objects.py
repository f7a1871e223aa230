"""What people save beside the weights is passed over, and never imported."""

from __future__ import annotations

import argparse
import builtins
import collections
import datetime
import decimal
import enum
import fractions
import functools
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import types
import uuid
import webbrowser
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from lama.saicinpainting.training.trainers import UnsafeCheckpointError
from lama.saicinpainting.training.trainers.checkpoints import read_generator_state
from tests.lama import tiny
from tests.lama.test_containers import assert_same
from tests.lama.test_hostile_files import Call, rewrite


class Colour(enum.Enum):
    RED = 1


class Flags(enum.IntFlag):
    ONE = 1


class Attributes(dict):
    """A dict with attributes, as configuration libraries have it."""

    __getattr__ = dict.__getitem__


class Items(list):
    """A list of one's own."""


Pair = collections.namedtuple("Pair", "left right")

NUMPY = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16",
    "float32", "float64", "complex64", "complex128", "str", "bytes", "datetime64[s]",
    "timedelta64[s]",
]  # fmt: skip

FOREIGN = {
    **{f"numpy {name}": np.zeros(1, name)[0] for name in NUMPY},
    **{f"numpy array {name}": np.zeros((2, 3), name) for name in NUMPY},
    "numpy array of objects": np.array([{}, None, "x"], object),
    "numpy record": np.zeros(2, [("a", "i4"), ("b", "f8")]),
    "numpy dtype": np.dtype("float32"),
    "numpy generator": np.random.default_rng(1),
    "numpy state": np.random.RandomState(1).get_state(),
    "PosixPath": pathlib.PurePosixPath("/data/train"),
    "Path": Path("/data/train"),
    "WindowsPath": pathlib.PureWindowsPath("C:/data"),
    "Namespace": argparse.Namespace(lr=0.1, out=Path("out"), nested=argparse.Namespace(a=1)),
    "SimpleNamespace": types.SimpleNamespace(a=1),
    "OrderedDict": OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "Counter": collections.Counter("hello"),
    "deque": collections.deque([1, 2]),
    "namedtuple": Pair(1, 2),
    "datetime": datetime.datetime.now(datetime.UTC),
    "timedelta": datetime.timedelta(1),
    "date": datetime.date(2024, 1, 1),
    "enum": Colour.RED,
    "flag": Flags.ONE,
    "Decimal": decimal.Decimal("1.5"),
    "Fraction": fractions.Fraction(1, 3),
    "UUID": uuid.uuid4(),
    "partial": functools.partial(nn.ReLU, inplace=True),
    "set": {1, 2},
    "frozenset": frozenset({(1, Colour.RED)}),
    "complex": 1 + 2j,
    "bytes": b"\x00\xff" * 200,
    "bytearray": bytearray(3),
    "slice": slice(1, 2),
    "range": range(5),
    "exception": ValueError("x"),
    "large int": 1 << 4000,
    "none type": type(None),
    "class": nn.ReLU,
    "function": nn.functional.relu,
    "dict of one's own": Attributes(lr=0.1),
    "list of one's own": Items([1, 2]),
    "foreign key": {Colour.RED: 1, (1, Colour.RED): 2, None: 3, 1.5: 4},
    "OmegaConf dict": OmegaConf.create({"a": {"b": [1, "${a}"]}}),
    "OmegaConf list": OmegaConf.create([1, {"a": 2}]),
    "torch.device": torch.device("cuda:0"),
    "torch.dtype": torch.bfloat16,
    "torch.Size": torch.Size([1, 2]),
    "torch.layout": torch.strided,
    "module": nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()),
    "optimizer": torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict(),
}

#: Tensors that no generator has; by themselves they would be surplus weights.
TENSORS = {
    "sparse": torch.eye(3).to_sparse(),
    "float8": torch.zeros(2, dtype=torch.float8_e4m3fn),
    "complex": torch.zeros(2, dtype=torch.complex64),
    "strided": torch.arange(12.0).view(3, 4).t()[1:, ::2],
    "empty": torch.zeros(0, 3),
    "buffer": nn.Buffer(torch.zeros(2)),
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return tiny.tiny_state(n_blocks=1)


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_object_beside_the_weights_is_passed_over(tmp_path, state, what):
    path, foreign = tmp_path / "best.pth", FOREIGN[what]
    for content, saved in (
        ({**state, "extra": foreign}, {}),
        ({"extra": foreign, "state_dict": under("generator.", state)}, {}),
        ({"gen_state_dict": state, "extra": [(foreign, foreign)]}, {"pickle_protocol": 4}),
        ({"extra": foreign, "params": state}, {"_use_new_zipfile_serialization": False}),
    ):
        torch.save(content, path, **saved)
        assert_same(read_generator_state(path), state)


@pytest.mark.parametrize("what", TENSORS)
def test_a_foreign_tensor_beside_the_state_dict_is_passed_over(tmp_path, state, what):
    path = tmp_path / "last.ckpt"
    lightning = under("generator.", state) | {"loss.weight": TENSORS[what]}
    torch.save({"state_dict": lightning, "extra": {"deep": [TENSORS[what]]}}, path)
    assert_same(read_generator_state(path), state)


def under(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def foreign_module(marker: Path) -> types.ModuleType:
    """A module whose import, and whose class's every use, leaves a mark."""
    code = f"""
import pathlib
pathlib.Path({str(marker)!r}).write_text("imported")

class Callback(dict):
    def __init__(self, *args):
        pathlib.Path({str(marker)!r}).write_text("made")
    def __setstate__(self, state):
        pathlib.Path({str(marker)!r}).write_text("filled")
    def __reduce__(self):
        return Callback, (1,), {{"best_model_score": 1}}, None, iter([("a", 1)])
"""
    (marker.parent / "foreign_callbacks.py").write_text(code)
    module = types.ModuleType("foreign_callbacks")
    exec(code, module.__dict__)
    module.Callback.__module__ = "foreign_callbacks"
    return module


@pytest.mark.parametrize("is_importable", [True, False])
@pytest.mark.parametrize("is_loaded", [True, False])
def test_a_foreign_class_is_neither_imported_nor_made(
    tmp_path, monkeypatch, state, is_importable, is_loaded
):
    marker, path = tmp_path / "marker", tmp_path / "last.ckpt"
    module = foreign_module(marker)
    monkeypatch.setitem(sys.modules, "foreign_callbacks", module)
    lightning = under("generator.", state)
    callbacks = {module.Callback: {"state": module.Callback()}}
    torch.save({"state_dict": lightning, "callbacks": callbacks}, path)
    if not is_loaded:
        monkeypatch.delitem(sys.modules, "foreign_callbacks")
    if is_importable:
        monkeypatch.syspath_prepend(tmp_path)
    marker.unlink()
    assert_same(read_generator_state(path), state)
    assert not marker.exists()
    assert is_loaded or "foreign_callbacks" not in sys.modules


def test_reading_a_file_imports_nothing_that_it_names(tmp_path, monkeypatch, state):
    torch.save({"state_dict": state, **FOREIGN}, tmp_path / "best.ckpt")
    read_generator_state(tmp_path / "best.ckpt")
    imported = []
    real = builtins.__import__

    def noted(name, *rest):
        imported.append(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", noted)
    assert_same(read_generator_state(tmp_path / "best.ckpt"), state)
    assert not {"numpy", "pathlib", "argparse", "datetime", "omegaconf", __name__} & set(imported)


def test_lightnings_callbacks_need_no_lightning(tmp_path, state):
    names = [
        "pytorch_lightning.callbacks.model_checkpoint\nModelCheckpoint",
        "pytorch_lightning.callbacks.early_stopping\nEarlyStopping",
        "lightning.pytorch.callbacks.lr_monitor\nLearningRateMonitor",
        "pytorch_lightning.utilities.parsing\nAttributeDict",
    ]
    torch.save({"extra": "HERE", "state_dict": state}, tmp_path / "last.ckpt")
    content = (tmp_path / "last.ckpt").read_bytes()
    text = b"X\x04\x00\x00\x00HERE"
    assert content.count(text) == 1
    with zipfile.ZipFile(tmp_path / "last.ckpt") as archive:
        pickled = archive.read("last/data.pkl")
    for name in names:
        # An object of that class with an item and a state.
        made = b"c" + name.encode() + b"\n)\x81(X\x01\x00\x00\x00aK\x01u}X\x01\x00\x00\x00bK\x02sb"
        rewrite(
            tmp_path / "last.ckpt", tmp_path / "l.ckpt", {"data.pkl": pickled.replace(text, made)}
        )
        assert_same(read_generator_state(tmp_path / "l.ckpt"), state)


RUNS = {
    "posix.system": os.system,
    "builtins.eval": eval,
    "builtins.exec": exec,
    "builtins.getattr": getattr,
    "builtins.__import__": __import__,
    "io.open": open,
    "subprocess.Popen": subprocess.Popen,
    "subprocess.run": subprocess.run,
    "shutil.rmtree": shutil.rmtree,
    "webbrowser.open": webbrowser.open,
    "pickle.loads": pickle.loads,
    "os.remove": os.remove,
    "torch.serialization.load": torch.load,
    "torch.hub.load": torch.hub.load,
    "torch.jit._serialization.load": torch.jit.load,
    "numpy.fromfile": np.fromfile,
}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("what", RUNS)
def test_a_name_that_could_run_something_is_refused(tmp_path, state, what, protocol):
    path, marker = tmp_path / "best.pth", tmp_path / "marker"
    # The name alone, as an argument and as a call.
    for attack in (RUNS[what], Call(RUNS[what], f"touch {marker}")):
        torch.save({**state, "extra": [attack]}, path, pickle_protocol=protocol)
        with pytest.raises(UnsafeCheckpointError, match="could run something") as caught:
            read_generator_state(path)
        assert "save the weights alone" in str(caught.value)
        assert not marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os\nsystem", "nt\nsystem", "__builtin__\neval", "__builtin__\nfile", "commands\ngetoutput",
        "copy_reg\n__newobj__", "cloudpickle.cloudpickle\n_make_function", "dill._dill\n_load_type",
        "numpy.f2py\ncrackfortran", "numpy.testing._private.utils\nrunstring", "torch\nload",
        "torch.utils.cpp_extension\nload_inline", "torch._inductor.codecache\nX",
        "runpy\n_run_code", "importlib\nimport_module", "ctypes\nCDLL", "builtins\nopen",
        "builtins\nmap", "sys\nexit",
        "pty\nspawn", "socket\nsocket", "multiprocessing.util\nspawnv_passfds",
        "operator\nattrgetter", "types\nFunctionType", "types\nCodeType", "mine\neval",
        "pathlib\nos.system", "timeit\ntimeit",
    ],
)  # fmt: skip
@pytest.mark.parametrize("opcode", ["GLOBAL", "INST", "STACK_GLOBAL"])
def test_a_name_that_could_run_something_is_refused_under_every_spelling(tmp_path, name, opcode):
    path = tmp_path / "best.pth"
    module, attribute = name.encode().split(b"\n")
    lines = module + b"\n" + attribute + b"\n"
    texts = b"".join(b"X" + len(t).to_bytes(4, "little") + t for t in (module, attribute))
    path.write_bytes(
        b"\x80\x02"
        + {"GLOBAL": b"c" + lines, "INST": b"(i" + lines, "STACK_GLOBAL": texts + b"\x93"}[opcode]
        + b"."
    )
    with pytest.raises(UnsafeCheckpointError, match=attribute.decode()):
        read_generator_state(path)


def test_extension_codes_are_refused(tmp_path):
    for opcode in (b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00"):
        (tmp_path / "best.pth").write_bytes(b"\x80\x02" + opcode + b".")
        with pytest.raises(UnsafeCheckpointError, match="opcode EXT"):
            read_generator_state(tmp_path / "best.pth")

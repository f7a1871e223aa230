"""A checkpoint is untrusted input: nothing in it runs, and what is wrong with it is one line."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lama.saicinpainting.training.trainers import CheckpointError, UnsafeCheckpointError
from lama.saicinpainting.training.trainers.checkpoints import read_generator_state
from tests.lama import tiny


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self):
        return self.call


def refusal(path: Path) -> str:
    """The one line that a file is refused with."""
    with pytest.raises(CheckpointError) as caught:
        read_generator_state(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


def attacks(marker: Path) -> dict[str, Call]:
    return {
        "posix.system": Call(os.system, f"touch {marker}"),
        "builtins.eval": Call(eval, f"open({str(marker)!r}, 'w')"),
        "builtins.getattr": Call(getattr, "", "join"),
        "torch.serialization.load": Call(torch.load, str(marker)),
    }


NAMES = ["posix.system", "builtins.eval", "builtins.getattr", "torch.serialization.load"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("container", ["bare", "gen_state_dict", "lightning", "old"])
def test_a_pickle_that_calls_anything_is_refused_and_does_not_run(tmp_path, container, name):
    marker, path = tmp_path / "marker", tmp_path / "best.ckpt"
    attack = attacks(marker)[name]
    state = tiny.tiny_state()
    lightning = {"state_dict": {f"generator.{k}": v for k, v in state.items()}}
    content = {
        "bare": {**state, "model.1.extra": attack},
        "gen_state_dict": {"gen_state_dict": state, "extra": attack},
        "lightning": {**lightning, "callbacks": {"deep": [{"inside": (1, attack)}]}},
        "old": {**state, "extra": attack},
    }[container]
    torch.save(content, path, _use_new_zipfile_serialization=container != "old")
    with pytest.raises(UnsafeCheckpointError) as caught:
        read_generator_state(path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_plain_pickle_is_refused_and_does_not_run(tmp_path, protocol):
    marker, path = tmp_path / "marker", tmp_path / "best.ckpt"
    attack = Call(os.system, f"touch {marker}")
    path.write_bytes(pickle.dumps({"state_dict": attack}, protocol=protocol))
    refusal(path)
    assert not marker.exists()


def test_a_text_pickle_is_no_checkpoint(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "best.ckpt"
    path.write_bytes(pickle.dumps(Call(os.system, f"touch {marker}"), protocol=0))
    assert "not a checkpoint" in refusal(path)
    assert not marker.exists()


def rewrite(source: Path, target: Path, changes: dict[str, bytes]) -> None:
    """Copies an archive, with other bytes for the entries whose names end in a key."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            name = entry.filename.partition("/")[2]
            new.writestr(entry.filename, changes.get(name, old.read(entry)))


def test_a_torchscript_file_with_a_hostile_pickle_is_refused(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "big-lama.pt"
    good = tiny.save_script(tmp_path / "good.pt", tiny.Composite(tiny.tiny_generator()), trace=True)
    payload = pickle.dumps(Call(os.system, f"touch {marker}"), protocol=2)
    rewrite(good, path, {"data.pkl": payload})
    assert "posix.system" in refusal(path)
    assert not marker.exists()


def test_torchscript_code_is_never_loaded(tmp_path):
    path = tmp_path / "big-lama.pt"
    good = tiny.save_script(tmp_path / "good.pt", tiny.Composite(tiny.tiny_generator()), trace=True)
    with zipfile.ZipFile(good) as archive:
        code = [n.partition("/")[2] for n in archive.namelist() if n.endswith(".py")]
    assert code
    rewrite(good, path, {"constants.pkl": b"nonsense", **dict.fromkeys(code, b"nonsense(")})
    assert set(read_generator_state(path)) == set(tiny.tiny_state())


def test_a_torchscript_file_that_nests_without_end_is_refused(tmp_path):
    path = tmp_path / "big-lama.pt"
    good = tiny.save_script(tmp_path / "good.pt", tiny.Composite(tiny.tiny_generator()), trace=True)
    # One object that is its own attribute: c (GLOBAL) ) (empty tuple) \x81 (NEWOBJ) b (BUILD)
    loop = b"\x80\x02c__torch__\nW\n)\x81q\x00}X\x01\x00\x00\x00mh\x00sb."
    rewrite(good, path, {"data.pkl": loop})
    assert "attributes" in refusal(path)


def test_compressed_entries_are_refused(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(10_000_000))
    assert "archive/data.pkl is compressed" in refusal(path)


def test_entries_that_claim_more_than_the_file_are_refused(tmp_path):
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        archive.writestr("archive/data/0", bytes(100))
        archive.filelist[1].file_size = archive.filelist[1].compress_size = 4_000_000_000
    message = refusal(path)
    assert "claim 4000000004 bytes" in message
    assert f"the file has {path.stat().st_size}" in message


def test_entries_of_the_same_name_are_refused(tmp_path):
    path = tmp_path / "double.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", b"\x80\x02}.")
    assert "same name" in refusal(path)


def test_a_tensor_that_is_larger_than_the_file_is_refused(tmp_path):
    state = tiny.tiny_state()
    state["model.1.ffc.convl2l.weight"] = torch.zeros(1).expand(1_000_000, 1_000_000)
    torch.save(state, tmp_path / "expanded.pth")
    assert "more elements than the file has bytes" in refusal(tmp_path / "expanded.pth")


@pytest.mark.parametrize("field", ["storage", "size"])
def test_a_tensor_that_reaches_past_its_bytes_is_refused(tmp_path, field):
    torch.save({"model.1.ffc.convl2l.weight": torch.arange(77.0)}, tmp_path / "good.pth")
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        pickled = archive.read("good/data.pkl")
    # K is a one-byte integer, M one of two bytes; the first 77 is the storage's, the second the
    # tensor's own.
    places = pickled.split(b"K\x4d")
    assert len(places) == 3
    longer = b"M\x00\x40"
    first, second = (longer, longer) if field == "storage" else (b"K\x4d", longer)
    changed = places[0] + first + places[1] + second + places[2]
    rewrite(tmp_path / "good.pth", tmp_path / "bad.pth", {"data.pkl": changed})
    refusal(tmp_path / "bad.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, value):
    state = tiny.tiny_state()
    state["model.5.conv1.bn_g.running_var"][3] = value
    torch.save(state, tmp_path / "nan.pth")
    assert "model.5.conv1.bn_g.running_var" in refusal(tmp_path / "nan.pth")


def test_integer_weights_are_refused(tmp_path):
    state = tiny.tiny_state()
    state["model.1.ffc.convl2l.weight"] = state["model.1.ffc.convl2l.weight"].to(torch.int8)
    torch.save(state, tmp_path / "int8.pth")
    assert "torch.int8" in refusal(tmp_path / "int8.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "a web page"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not a checkpoint"),
        (b"\x1f\x8b\x08" + bytes(64), "a gzip archive: unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(64), "a 7z archive: unpack it"),
        (b"Rar!\x1a\x07" + bytes(64), "a RAR archive: unpack it"),
        (b"\x80\x02", "damaged"),
        (pickle.dumps({"state_dict": {}}, 2), "torch.save has not written"),
        (pickle.dumps({"state_dict": {}}, 5), "torch.save has not written"),
        (b"PK\x03\x04" + bytes(64), "damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{'not json'     ", "damaged"),
        (bytes(1000), "not a checkpoint"),
        (b"x", "not a checkpoint"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "best.ckpt"
    path.write_bytes(content)
    assert said in refusal(path)


@pytest.mark.parametrize("container", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, container, share):
    whole, path = tmp_path / "whole", tmp_path / "best.ckpt"
    if container == "safetensors":
        safetensors.torch.save_file(tiny.tiny_state(), whole)
    else:
        torch.save(tiny.tiny_state(), whole, _use_new_zipfile_serialization=container == "zip")
    content = whole.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("of", ["a weight", "the pickle"])
def test_a_flipped_bit_in_what_is_read_is_refused(tmp_path, of):
    path = tmp_path / "best.ckpt"
    torch.save({"gen_state_dict": tiny.tiny_state(), "other": torch.zeros(4096)}, path)
    with zipfile.ZipFile(path) as archive:
        name = {"a weight": "data/3", "the pickle": "data.pkl"}[of]
        (entry,) = [e for e in archive.infolist() if e.filename.endswith(f"/{name}")]
        content = archive.read(entry)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 1
    path.write_bytes(whole)
    assert "do not have their checksum); copy or download it again" in refusal(path)


def test_a_flipped_bit_in_what_is_not_read_does_no_harm(tmp_path):
    path = tmp_path / "best.ckpt"
    other = torch.arange(4096)
    torch.save({"gen_state_dict": tiny.tiny_state(), "other": other}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(other.numpy().tobytes()) + 99] ^= 1
    path.write_bytes(whole)
    assert set(read_generator_state(path)) == set(tiny.tiny_state())


def test_a_file_whose_checksums_were_not_computed_is_read(tmp_path):
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tiny.tiny_state(), tmp_path / "best.ckpt")
    finally:
        torch.serialization.set_crc32_options(computed)
    assert set(read_generator_state(tmp_path / "best.ckpt")) == set(tiny.tiny_state())


def test_what_is_no_file_is_told_by_what_it_is(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name, what in {
        "absent": "no such file",
        "folder": "a folder, not a file",
        "folder/../absent": "no such file",
        "pipe": "a named pipe, not a file",
        "loop": "a link that leads back to itself",
        "dangling": "a link to nowhere, where there is no such file",
        "/dev/null": "a device, not a file",
    }.items():
        assert f": {what}; the weights (best.ckpt) are needed" in refusal(tmp_path / name)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = tmp_path / "best.ckpt"
    path.write_bytes(b"x")

    def denied(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert "Permission denied" in refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {"a\nb": 1},
        {"state_dict": {"x\ny": torch.zeros(1)}},
        {"gen\n1": tiny.tiny_state(n_blocks=1), "gen\n2": tiny.tiny_state(n_blocks=1)},
        {"model.1.ffc.convl2l.weight": torch.zeros(1), "model.\n": 3},
    ],
)
def test_names_with_line_breaks_stay_in_one_line(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    refusal(tmp_path / "x.pth")


def test_a_foreign_class_in_place_of_weights_is_named_in_one_line(tmp_path):
    path = tmp_path / "x.pth"
    name = b"X\x04\x00\x00\x00mi\nnX\x04\x00\x00\x00N\net\x93)\x81"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + name + b".")
    assert "holds a mi n.N et, not a state dict" in refusal(path)


def test_an_archive_that_is_no_checkpoint_says_so(tmp_path):
    path = tmp_path / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photos/one.txt", "hello")
    assert "without data.pkl" in refusal(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_of_files_is_told_to_be_unzipped(tmp_path, compression):
    path = tmp_path / "big-lama.zip"
    models = tiny.GOLDEN / "blocks9-ngf8"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("__MACOSX/big-lama/models/._best.ckpt", "")
        archive.mkdir("big-lama")
        archive.write(models / "config.yaml", "big-lama/config.yaml")
        archive.write(models / "models" / "best.ckpt", "big-lama/models/best.ckpt")
    assert "unzip it, and name big-lama/models/best.ckpt" in refusal(path)


def test_a_few_bytes_that_name_the_same_dict_over_and_over_take_no_time(tmp_path):
    inner = {str(number): {"x": 1} for number in range(2000)}
    content = {str(number): inner for number in range(20_000)}
    torch.save(content, tmp_path / "x.pth")
    assert "holds no generator" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize(
    "program",
    [
        b"}h\x00.",  # a memo that was never written
        b"(((.",
        b"0.",
        b"N\x81.",
        b"]K\x01K\x02\x86R.",
        b"NQ.",
        b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"ctorch._utils\n_rebuild_tensor_v2\nNR.",
        b"ctorch._tensor\n_rebuild_from_type_v2\n)R.",
        b"ccollections\nOrderedDict\n](K\x01ea\x85R.",
        b"}" + b"(" * 5000 + b"t" * 5000 + b"K\x01s.",  # a key that is too deep to hash
        b"\x8e" + b"\xff" * 8 + b".",
        b"\x8a\xff" + b"\xff" * 255 + b".",
        b"L" + b"9" * 10_000 + b"L\n.",
    ],
)
@pytest.mark.parametrize("container", ["zip", "old"])
def test_a_pickle_that_makes_no_sense_is_refused(tmp_path, container, program):
    path = tmp_path / "best.ckpt"
    if container == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + program)
    else:
        path.write_bytes(b"\x80\x02" + program)
    refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a Tensor"),
        ({"state_dict": 5}, "state_dict is a int"),
        ({"epoch": 3, "lr": 0.1}, "its keys: epoch, lr"),
        ({}, "its keys: none"),
        ({"unknown.model.1.ffc.convl2l.weight": torch.zeros(1)}, "holds no generator"),
        ({"model.1.ffc.convl2l.weight": torch.zeros(1), "model.1": 3}, "model.1 is a int"),
    ],
)
def test_a_checkpoint_of_something_else_says_what_it_holds(tmp_path, content, said):
    torch.save(content, tmp_path / "other.pth")
    assert said in refusal(tmp_path / "other.pth")


def test_bytes_changed_in_the_pickle_give_weights_or_a_checkpoint_error(tmp_path):
    buffer = io.BytesIO()
    torch.save({"model.1.ffc.convl2l.weight": torch.zeros(2)}, buffer)
    (tmp_path / "good.pth").write_bytes(buffer.getvalue())
    with zipfile.ZipFile(tmp_path / "good.pth") as archive:
        pickled = archive.read("archive/data.pkl")
    for position in range(0, len(pickled), 3):
        damaged = bytearray(pickled)
        damaged[position] ^= 0x15
        rewrite(tmp_path / "good.pth", tmp_path / "bad.pth", {"data.pkl": bytes(damaged)})
        with contextlib.suppress(CheckpointError):
            read_generator_state(tmp_path / "bad.pth")

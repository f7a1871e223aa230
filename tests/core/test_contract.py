"""Messages: what is accepted, and what each kind of bad one is refused for."""

from __future__ import annotations

import copy
import json
import string
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from core.config import Settings
from core.contract import (
    Segment,
    input_names,
    is_result_name,
    parse_job,
    request_of,
    result_fields,
)
from core.errors import BadMessage
from core.identity import current_identity
from core.keys import Kind

SETTINGS = Settings(_env_file=None)
WIRE = SETTINGS.wire_format

GOOD: dict[str, Any] = {
    "request_id": "r-1",
    "image_id": "page.jpg",
    "original_size": [300, 860],
    "padding_info": [2, 4, 6, 8],
    "preprocessed_img_shm_info": {
        "shm_name": "img_shm_" + "a" * 32,
        "shape": [64, 96, 3],
        "dtype": "uint8",
        "size": 64 * 96 * 3,
    },
    "preprocessed_mask_shm_info": {
        "shm_name": "mask_shm_" + "b" * 32,
        "shape": [64, 96],
        "dtype": "uint8",
        "size": 64 * 96,
    },
    "is_long": True,
}
IMAGE, MASK = "preprocessed_img_shm_info", "preprocessed_mask_shm_info"


def changed(path: str, value: object) -> bytes:
    """The good message with one value replaced, or removed if it is Ellipsis."""
    message = copy.deepcopy(GOOD)
    *parents, last = path.split(".")
    place = message
    for parent in parents:
        place = place[parent]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return json.dumps(message).encode()


def test_a_good_message_becomes_a_job() -> None:
    job = parse_job(json.dumps(GOOD).encode(), WIRE)
    assert (job.request_id, job.image_id, job.is_long) == ("r-1", "page.jpg", True)
    assert job.original_size == (300, 860)
    assert job.padding == (2, 4, 6, 8)
    assert job.image == Segment("img_shm_" + "a" * 32, (64, 96, 3), np.dtype("uint8"))
    assert job.mask.shape == (64, 96)
    assert job.original is None


def test_unknown_fields_are_ignored_and_a_mask_may_have_a_channel() -> None:
    message = json.loads(changed(f"{MASK}.shape", [64, 96, 1]))
    message["added_later"] = {"anything": [None]}
    assert parse_job(json.dumps(message).encode(), WIRE).mask.shape == (64, 96, 1)


@pytest.mark.parametrize("prefix", ["img_shm_", "mask_shm_", "psm_"])
def test_each_prefix_of_inputs_is_accepted(prefix: str) -> None:
    assert parse_job(changed(f"{IMAGE}.shm_name", prefix + "x"), WIRE)


@pytest.mark.parametrize("field", sorted(GOOD))
@pytest.mark.parametrize("value", [..., None, 7.5, {"a": 1}, ["x"]])
def test_a_field_that_is_missing_null_or_of_another_type_is_refused(
    field: str, value: object
) -> None:
    with pytest.raises(BadMessage, match=field):
        parse_job(changed(field, value), WIRE)


@pytest.mark.parametrize("which", [IMAGE, MASK])
@pytest.mark.parametrize("field", ["shm_name", "shape", "dtype", "size"])
@pytest.mark.parametrize("value", [..., None, 7.5, {"a": 1}, [], True])
def test_a_segments_field_that_is_missing_null_or_of_another_type_is_refused(
    which: str, field: str, value: object
) -> None:
    with pytest.raises(BadMessage, match=which):
        parse_job(changed(f"{which}.{field}", value), WIRE)


@pytest.mark.parametrize(
    "payload",
    [
        *(b"", b"not json", b"\xff\xfe", b"[1]", b'"text"', b"null", b"17", b"{", b"[" * 100_000),
        *(b'{"request_id": NaN}', b'{"a": ' * 5_000, b" " * (8 << 20) + b"{}"),
    ],
)
def test_what_is_no_json_object_is_refused(payload: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_job(payload, WIRE)
    assert request_of(payload) is None


@pytest.mark.parametrize("depth", [100, 991, 1497, 9998, 100_000])  # limits of several Pythons
@pytest.mark.parametrize("printable", [True, False])  # Python 3.14 reads deeper than it prints
def test_a_value_nested_as_deeply_as_json_allows_is_refused_like_any_other(
    monkeypatch: pytest.MonkeyPatch, depth: int, printable: bool
) -> None:
    def failing(_: object) -> str:
        raise RecursionError

    if not printable:
        monkeypatch.setattr("core.fields.ascii", failing, raising=False)

    def nested(place: str) -> bytes:
        return changed(place, "?").replace(b'"?"', b"[" * depth + b"]" * depth)

    for place in ("request_id", f"{IMAGE}.shm_name", "image_id"):
        with pytest.raises(BadMessage):
            parse_job(nested(place), WIRE)
    assert request_of(nested("request_id")) is None
    assert request_of(nested("image_id")) in (("r-1", ""), None)
    assert input_names(nested(f"{IMAGE}.shm_name"), WIRE) in ([GOOD[MASK]["shm_name"]], [])


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "9" * 5000])
@pytest.mark.parametrize("field", ["original_size", "added_later"])
def test_a_number_that_is_no_json_is_refused_and_does_not_hide_whose_message_it_is(
    field: str, number: str
) -> None:
    payload = changed(field, "?").replace(b'"?"', number.encode())
    with pytest.raises(BadMessage) as caught:
        parse_job(payload, WIRE)
    assert caught.value.reason == "bad_json"
    assert request_of(payload) == ("r-1", "page.jpg")
    assert input_names(payload, WIRE) == [GOOD[field]["shm_name"] for field in (IMAGE, MASK)]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("padding_info", [-1, 0, 0, 0], "bad_field"),
        ("padding_info", [32, 0, 32, 0], "bad_padding"),
        ("padding_info", [0, 95, 0, 1], "bad_padding"),
        ("padding_info", [0, 0, 0], "bad_field"),
        ("padding_info", [0, 0, 0, True], "bad_field"),
        ("original_size", [0, 860], "bad_field"),
        ("original_size", [300, -860], "bad_field"),
        ("original_size", [16_777_217, 1], "too_large"),
        ("original_size", [10**30, 10**30], "too_large"),
        ("original_size", [300.5, 860], "bad_field"),
        ("original_size", [1e308, 860], "too_large"),
        ("padding_info", [-1.0, 0, 0, 0], "bad_field"),
        ("padding_info", "0000", "bad_field"),
        ("request_id", "", "bad_field"),
        ("request_id", "x" * 2000, "bad_field"),
        ("request_id", "\ud800", "bad_field"),
        ("request_id", 7.0, "bad_field"),
        ("request_id", False, "bad_field"),
        ("image_id", 10**1024, "bad_field"),
        ("is_long", "yes", "bad_field"),
        ("is_long", 2, "bad_field"),
        ("is_long", 0.5, "bad_field"),
        (f"{IMAGE}.shape", [64, 96, 1], "bad_shape"),
        (f"{IMAGE}.shape", [64, 96, 2], "size_mismatch"),
        (f"{IMAGE}.shape", [64, 96, 4], "size_mismatch"),
        (f"{IMAGE}.shape", [64, 96], "size_mismatch"),
        (f"{IMAGE}.shape", [0, 96, 3], "bad_field"),
        (f"{IMAGE}.shape", [-64, -96, 3], "bad_field"),
        (f"{IMAGE}.shape", [2**32, 2**32, 3], "too_large"),
        (f"{IMAGE}.shape", [1, 2**20 + 1, 3], "too_large"),  # 16 × that is computed
        (f"{MASK}.shape", [2**24, 1], "too_large"),
        (f"{IMAGE}.shape", [1, 2**20, 3], "size_mismatch"),
        (f"{IMAGE}.shape", [64, 96, 3, 1], "bad_shape"),
        (f"{IMAGE}.size", 64 * 96, "size_mismatch"),
        (f"{IMAGE}.size", "18432", "size_mismatch"),
        (f"{IMAGE}.size", 18432 + 4096, "size_mismatch"),
        (f"{IMAGE}.size", 18432.5, "size_mismatch"),
        (f"{MASK}.size", 4096, "size_mismatch"),
        (f"{IMAGE}.dtype", "<u2", "bad_dtype"),
        (f"{IMAGE}.dtype", "|i1", "bad_dtype"),
        (f"{IMAGE}.dtype", ">f16", "bad_dtype"),
        (f"{IMAGE}.dtype", "|u1 ", "bad_dtype"),
        (f"{IMAGE}.dtype", "?", "bad_dtype"),
        (f"{MASK}.shape", [64, 96, 4], "size_mismatch"),
        (f"{IMAGE}.dtype", "object", "bad_dtype"),
        (f"{IMAGE}.dtype", "complex64", "bad_dtype"),
        (f"{IMAGE}.dtype", "U8", "bad_dtype"),
        (f"{IMAGE}.dtype", "bool", "bad_dtype"),
        (f"{IMAGE}.dtype", "int8,(1000000,1000000)u1", "bad_dtype"),
        (f"{MASK}.shape", [96, 64], "size_mismatch"),
        (f"{MASK}.shape", [64, 96, 3], "size_mismatch"),
    ],
)
def test_values_that_contradict_the_contract_are_refused(
    path: str, value: object, reason: str
) -> None:
    payload = changed(path, value)
    if path.endswith(".shape") and reason == "bad_shape" and value == [64, 96, 1]:
        message = json.loads(payload)
        message[IMAGE]["size"] = 64 * 96
        payload = json.dumps(message).encode()
    with pytest.raises(BadMessage) as caught:
        parse_job(payload, WIRE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_picture_without_three_channels_is_refused(channels: int) -> None:
    message = copy.deepcopy(GOOD)
    message[IMAGE] |= {"shape": [64, 96, channels], "size": 64 * 96 * channels}
    with pytest.raises(BadMessage, match=r"\[H, W, 3\]"):
        parse_job(json.dumps(message).encode(), WIRE)


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", "/", "img_shm_/../x", "../img_shm_x", "img_shm_x/..", "etc/passwd"),
        *("sem.img_shm_x", "other_x", "img_shm_\0", "img_shm_x\n", "img_shm_" + "x" * 300),
        *("img_shm_ü", "//img_shm_x", "/dev/shm/img_shm_x", "/", "/../x"),
    ],
)
def test_a_name_that_is_no_inputs_is_refused(name: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse_job(changed(f"{IMAGE}.shm_name", name), WIRE)
    assert caught.value.reason in ("bad_name", "bad_field")


def test_the_name_of_a_workers_result_is_no_inputs() -> None:
    name = f"img_shm_{current_identity(SETTINGS.queues).worker}-{'0' * 12}-7"
    assert is_result_name(name, WIRE.result_prefix)
    with pytest.raises(BadMessage):
        parse_job(changed(f"{IMAGE}.shm_name", name), WIRE)
    assert not is_result_name("img_shm_" + "a" * 32, WIRE.result_prefix)


def test_an_error_is_one_short_line_whatever_the_message_contains() -> None:
    with pytest.raises(BadMessage) as caught:
        parse_job(changed("image_id", ["\n\x1b[31mforged" * 10_000]), WIRE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "path", ["original_size", "padding_info", f"{IMAGE}.shape", f"{MASK}.shape", f"{MASK}.size"]
)
@pytest.mark.parametrize("digits", [100, 4300])
def test_a_number_of_many_digits_is_refused_with_a_short_error(path: str, digits: int) -> None:
    number = 10 ** (digits - 1)
    values = {"original_size": [number] * 2, "padding_info": [number] * 4}
    value = values.get(path, [64, 96, number] if path.endswith("shape") else number)
    with pytest.raises(BadMessage) as caught:
        parse_job(changed(path, value), WIRE)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("which", [IMAGE, MASK])
def test_a_segment_whose_size_has_many_digits_is_refused_with_a_short_error(which: str) -> None:
    message = copy.deepcopy(GOOD)
    message[which] |= {"shape": [1, 1, 10**4000], "size": 10**4000}
    with pytest.raises(BadMessage) as caught:
        parse_job(json.dumps(message).encode(), WIRE)
    assert caught.value.reason == "bad_shape"
    assert len(str(caught.value)) < 300


def test_an_original_that_cannot_be_used_does_not_spoil_the_job() -> None:
    message = copy.deepcopy(GOOD)
    info = {"shm_name": "img_shm_o", "dtype": "uint8", "shape": [300, 860, 3], "size": 774_000}
    message["original_shm_info"] = info
    job = parse_job(json.dumps(message).encode(), WIRE)
    assert job.original == Segment("img_shm_o", (300, 860, 3), np.dtype("uint8"))
    for wrong in ({"shape": [860, 300, 3]}, {"shm_name": "../x"}, {"dtype": "float32"}):
        message["original_shm_info"] = info | wrong
        assert isinstance(parse_job(json.dumps(message).encode(), WIRE).original, BadMessage)
    message["original_shm_info"] = "text"
    assert isinstance(parse_job(json.dumps(message).encode(), WIRE).original, BadMessage)


def test_an_originals_mask_is_as_free_in_its_form_as_a_mask_and_never_spoils_the_job() -> None:
    message = copy.deepcopy(GOOD)
    info = {"shm_name": "mask_shm_o", "dtype": "bool", "shape": [300, 860], "size": 258_000}
    for form in ({}, {"shape": [300, 860, 1]}, {"dtype": "uint8"}, {"dtype": "|b1"}):
        message["original_mask_shm_info"] = info | form
        mask = parse_job(json.dumps(message).encode(), WIRE).original_mask
        assert isinstance(mask, Segment), form
        assert mask.shape[:2] == (300, 860)
    for wrong in (
        {"shape": [860, 300]},
        {"shape": [300, 860, 2], "size": 516_000},
        {"shm_name": "../x"},
        {"size": 0},
    ):
        message["original_mask_shm_info"] = info | wrong
        job = parse_job(json.dumps(message).encode(), WIRE)
        assert isinstance(job.original_mask, BadMessage), wrong
    message["original_mask_shm_info"] = "text"
    mask = parse_job(json.dumps(message).encode(), WIRE).original_mask
    assert isinstance(mask, BadMessage)
    message["original_mask_shm_info"] = None
    assert parse_job(json.dumps(message).encode(), WIRE).original_mask is None
    assert parse_job(json.dumps(GOOD).encode(), WIRE).original_mask is None


def test_the_request_of_a_bad_message_is_known_where_it_has_one() -> None:
    assert request_of(changed("padding_info", None)) == ("r-1", "page.jpg")
    assert request_of(changed("image_id", 3)) == ("r-1", "3")
    assert request_of(changed("image_id", True)) == ("r-1", "")
    assert request_of(changed("request_id", 3)) == ("3", "page.jpg")
    assert request_of(changed("request_id", 2**70)) == (str(2**70), "page.jpg")
    assert request_of(changed("request_id", 7.50)) == ("7.5", "page.jpg")
    assert request_of(changed("request_id", True)) is None
    assert request_of(changed("request_id", 10**1024)) is None


@pytest.mark.parametrize(
    ("start", "request_"),
    [
        (b'{"request_id": "r", ', ("r", "")),
        (b'{"request_id": "r", "image_id": 1', ("r", "")),  # perhaps 12
        (b'{"request_id": "r\x07", "image_id": "a\nb"}', ("r\x07", "a\nb")),
        (b'{"request_id": 12', None),
        (b'{"request_id": 12}', ("12", "")),
        (b'{"request_id": "r', None),
        (b' {\n"image_id"\t: "i" ,\r"request_id" :"r"} and more', ("r", "i")),
        (b'{"a": {"request_id": "inner"}, ', None),
        (b'{"request_id": "caf\xe9", ', None),
        (b'{null: 1, "request_id": "r"}', None),
        (b'{"request_id" "r"}', None),
    ],
)
def test_the_request_is_read_up_to_the_damage(
    start: bytes, request_: tuple[str, str] | None
) -> None:
    assert request_of(start) == request_


@pytest.mark.parametrize("page", [4096, 16_384, 65_536])
def test_a_size_in_pages_is_that_of_the_array_and_the_segment_need_not_be_so_large(
    page: int,
) -> None:
    rounded = -(-64 * 96 // page) * page
    job = parse_job(changed(f"{MASK}.size", rounded), WIRE)
    assert job.mask.size == 64 * 96


def test_a_slash_before_a_name_is_dropped_wherever_the_name_is_read() -> None:
    name = GOOD[IMAGE]["shm_name"]
    payload = changed(f"{IMAGE}.shm_name", f"/{name}")
    assert parse_job(payload, WIRE).image.name == name
    assert input_names(payload, WIRE) == [name, GOOD[MASK]["shm_name"]]
    result = f"/img_shm_{current_identity(SETTINGS.queues).worker}-{'0' * 12}-7"
    with pytest.raises(BadMessage):
        parse_job(changed(f"{IMAGE}.shm_name", result), WIRE)


def test_a_result_has_the_fields_that_receivers_read() -> None:
    job = parse_job(json.dumps(GOOD).encode(), WIRE)
    segment = Segment("img_shm_result", (300, 860, 3), np.dtype("uint8"))
    fields = result_fields(job, segment, Kind.SHORT, "me")
    assert fields["image_id"] == "page.jpg"
    assert fields["is_long"] == "false"
    assert json.loads(fields["inpaint_shm_info"]) == {
        "shm_name": "img_shm_result",
        "shape": [300, 860, 3],
        "dtype": "uint8",
        "size": 774_000,
    }


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(string.printable),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)
PATHS = [*GOOD, *(f"{which}.{field}" for which in (IMAGE, MASK) for field in GOOD[IMAGE])]


@hypothesis_settings(max_examples=300, deadline=None, database=None)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_whatever_replaces_a_value_gives_a_job_or_a_refusal(path: str, value: object) -> None:
    try:
        job = parse_job(changed(path, value), WIRE)
    except BadMessage as error:
        assert str(error).isprintable()  # noqa: PT017 - either outcome is right
    else:
        assert job.image.size == 3 * job.mask.size

"""Mutations of the message: fields, names, sizes."""

from __future__ import annotations

import math
import random
from typing import Any, Final

import numpy as np

from chaos.hostile.case import FORGED, IMAGE, MASK, MAX_PIXELS, Case, Fate, of_message
from harness.jobs import CANVAS, SIZE
from harness.workers import OWN

#: The fields of what a sender keeps, with the channels of its array.
ORIGINALS: Final[list[tuple[Any, ...]]] = [("original_shm_info", 3), ("original_mask_shm_info",)]


def strange(rng: random.Random) -> Any:
    """A value that is rarely what a field expects."""
    return rng.choice(
        [
            None, True, False, 0, -1, 1.5, 1e308, 2**31, 2**63, -(2**64),
            10**4299, "", "text", "\0", "\ud800", [], {}, [[]], [None], {"a": None}, [1, 2],
            [1, 2, 3, 4], [2**62] * 3, [-1, -1, -1], [0] * 4, ["1"] * 2, "9" * 5000,
            "x" * 2000, nested(rng.randrange(1, 500)), [1.0, 2.0],
        ]
    )  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


@of_message
def field_replaced(case: Case) -> Fate:
    case.message[case.rng.choice(sorted(case.message))] = strange(case.rng)
    return "either"


@of_message
def segment_field_replaced(case: Case) -> Fate:
    _, info = case.info()
    info[case.rng.choice(sorted(info))] = strange(case.rng)
    return "either"


@of_message
def element_replaced(case: Case) -> Fate:
    which = case.rng.choice(["original_size", "padding_info", "shape"])
    values = case.message.get(which) or case.info()[1].get("shape")
    if isinstance(values, list) and values:
        values[case.rng.randrange(len(values))] = strange(case.rng)
    return "either"


@of_message
def field_missing(case: Case) -> Fate:
    del case.message[case.rng.choice(sorted(case.message))]
    return "dead"


@of_message
def segment_field_missing(case: Case) -> Fate:
    _, info = case.info()
    if info:
        del info[case.rng.choice(sorted(info))]
    return "dead"


@of_message
def unknown_fields(case: Case) -> Fate:
    case.message |= {"\u202e": nested(100), "shm_name": case.bystanders.allowed, "": None}
    return "delivered"


@of_message
def megabyte(case: Case) -> Fate:
    name = case.rng.choice(["image_id", "request_id", "filler"])
    case.message[name] = "x" * (1_000_000)  # within MAX_MESSAGE_BYTES
    return "delivered" if name == "filler" else "dead"


@of_message
def eight_mebibytes(case: Case) -> Fate:
    case.message["filler"] = "x" * (8 << 20)
    return "dead"


@of_message
def forging_text(case: Case) -> Fate:
    start = case.rng.choice(["\n", "\r\n", "\r", "\x1b[2K\r", "\x0b", "\x85", "\u2028", "\u202e\n"])
    end = case.rng.choice(["", "\n", "\x1b]0;title\x07", "\u2066", "\u202e", "\u200f", "\x00"])
    case.message["image_id"] = f"{start}{FORGED}{end}"
    case.message["request_id"] = f"{case.number}{start}{FORGED}{end}"
    return "delivered"


@of_message
def bidirectional_text(case: Case) -> Fate:
    case.message["request_id"] = f"{case.number}\u202e\u2067dlrow olleh\u2069"
    # A warning repeats the request id of a job that is done.
    case.message["is_long"] = case.kind != "long"
    return "delivered"


@of_message
def refused_name(case: Case) -> Fate:
    _, info = case.info()
    there = case.bystanders
    up = f"img_shm_{OWN}/../{there.foreign}"
    info["shm_name"] = case.rng.choice(
        [
            there.foreign, there.semaphore, there.result, str(there.outside), up, "..", ".", "/",
            f"../..{there.outside}", f"//{there.allowed}", f"./{there.allowed}",
            f"/{there.foreign}", f"/{there.result}", f"/{there.semaphore}", f"{there.allowed}\0",
            f"img_shm_{OWN}..", f"{there.allowed}\n", "img_shm_/", "\u202e", "img_shm_é", "x" * 255,
            f"/dev/shm/{there.allowed}", f"img_shm_{'y' * 300}", "psm_\ud800",
        ]
    )  # fmt: skip
    return "dead"


@of_message
def spelled_otherwise(case: Case) -> Fate:
    """What some senders write, and what can mean only one thing."""
    _, info = case.info()
    change = case.rng.choice(["slash", "dtype", "pages", "floats", "is_long", "image_id"])
    if change == "slash":
        info["shm_name"] = f"/{info['shm_name']}"
    elif change == "dtype":
        info["dtype"] = case.rng.choice(["|u1", "<u1", ">u1", "=u1", "u1", "B", "ubyte"])
    elif change == "pages":
        page = case.rng.choice([4096, 16_384, 65_536])
        info["size"] = -(-info["size"] // page) * page
    elif change == "floats":
        info["shape"] = [float(side) for side in info["shape"]]
        case.message["original_size"] = [float(side) for side in case.message["original_size"]]
    elif change == "is_long":
        case.message["is_long"] = case.rng.choice([1, 0, "true", "False"])
    else:
        case.message["image_id"] = case.rng.choice([0, -5, 2**64])
    return "delivered"


@of_message
def numeric_request(case: Case) -> Fate:
    case.message["request_id"] = (1 << 60) + case.number
    return "delivered"


@of_message
def mask_of_three_channels(case: Case) -> Fate:
    path, info = case.path(MASK), case.message[MASK]
    if "mask_of_three_channels" in case.done or path.is_symlink() or not path.is_file():
        return case.fate  # an earlier mutation has put something else there
    grey = np.fromfile(path, np.uint8, CANVAS[0] * CANVAS[1]).reshape(CANVAS)
    channels = np.repeat(grey[..., None], 3, axis=2)
    path.write_bytes(channels.tobytes())
    info |= {"shape": list(channels.shape), "size": channels.nbytes}
    return "delivered"


@of_message
def original_elsewhere(case: Case) -> Fate:
    there = case.bystanders
    name = case.rng.choice([there.foreign, there.semaphore, there.result, "../x", 7, None])
    field, *channels = case.rng.choice(ORIGINALS)
    case.message[field] = {
        "shm_name": name,
        "shape": [*SIZE, *channels],
        "dtype": "uint8",
        "size": math.prod((*SIZE, *channels)),
    }
    return "delivered"


@of_message
def expiry_refused(case: Case) -> Fate:
    case.message["expires_at"] = case.rng.choice(
        [True, False, [], {}, [1], "", "soon", "nan", "-inf", "1e999", 1e308, 2**63, 10**4299, "\0"]
    )
    return "dead"


@of_message
def expiry_far(case: Case) -> Fate:
    case.message["expires_at"] = case.rng.choice([None, 9e10, 99_999_999_999, "99999999999.5"])
    return "delivered"


@of_message
def original_strange(case: Case) -> Fate:
    value = case.message[case.rng.choice(ORIGINALS)[0]] = strange(case.rng)
    return "either" if value == "\ud800" else "delivered"  # half of the time that is no UTF-8


@of_message
def sizes_disagree(case: Case) -> Fate:
    _, info = case.info()
    change = case.rng.choice(["size", "dtype", "shape", "swapped", "channels"])
    if change == "size":
        info["size"] = case.rng.choice([0, -1, info["size"] - 1, info["size"] + 1, 2**70])
    elif change == "dtype":
        info["dtype"] = case.rng.choice(
            ["float64", "object", "O", "U8", "int8,(1000000,1000000)u1", "uint8 ", ">f8", "V1"]
        )
    elif change == "shape":
        info["shape"] = [1 << 40, 1 << 40, 3]
        info["size"] = 3 << 80
    elif change == "swapped":
        info["shape"] = [CANVAS[1], CANVAS[0], *info["shape"][2:]]
    else:
        shape, item = [*CANVAS, 10**4299], case.rng.choice(["uint8", "float64"])
        info |= {"shape": shape, "dtype": item, "size": 1}
    return "dead"


@of_message
def huge_original_size(case: Case) -> Fate:
    case.message["original_size"] = case.rng.choice(
        [[MAX_PIXELS, 2], [10**4000, 10**4000], [2**31, 2**31], [MAX_PIXELS + 1, 1]]
    )
    return "dead"


@of_message
def extreme_original_size(case: Case) -> Fate:
    case.message["original_size"] = case.rng.choice([[MAX_PIXELS, 1], [1, MAX_PIXELS], [1, 1]])
    return "either"


@of_message
def padding_without_picture(case: Case) -> Fate:
    case.message["padding_info"] = case.rng.choice(
        [[64, 0, 0, 0], [32, 0, 32, 0], [0, 96, 0, 0], [10**4200] * 4, [0, 2**63, 0, 2**63]]
    )
    return "dead"


@of_message
def one_segment_for_both(case: Case) -> Fate:
    case.message[MASK]["shm_name"] = case.message[IMAGE]["shm_name"]
    return "either"


@of_message
def result_like_input_of_another_prefix(case: Case) -> Fate:
    case.message[IMAGE]["shm_name"] = f"psm_{OWN}host-1-{'0a' * 6}-{'0b' * 6}-7"
    return "dead"  # nothing is there

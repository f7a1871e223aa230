"""Mutations of the text that is pushed. They come last: they set `payload`."""

from __future__ import annotations

import json

from chaos.hostile.case import FORGED, IMAGE, Case, Fate, encoded, of_text


@of_text
def not_a_number(case: Case) -> Fate:
    literal = case.rng.choice([b"NaN", b"Infinity", b"-Infinity"])
    case.payload = encoded(case)[:-1] + b', "x": ' + literal + b"}"
    return "dead"


@of_text
def truncated_text(case: Case) -> Fate:
    whole = encoded(case)
    case.payload = whole[: case.rng.randrange(1, len(whole))]
    return "dead"


@of_text
def bytes_changed(case: Case) -> Fate:
    whole = bytearray(encoded(case))
    for _ in range(case.rng.randrange(1, 4)):
        whole[case.rng.randrange(len(whole))] = case.rng.randrange(256)
    case.payload = bytes(whole)
    return "either"


@of_text
def deep_text(case: Case) -> Fate:
    opening, closing = case.rng.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'[{"a":', b"}]")])
    depth = case.rng.choice([900, 980, 985, 990, 995, 1000, 20_000])
    value = opening * depth + b"1" + closing * (depth if case.rng.random() < 0.8 else 0)
    name = case.rng.choice(["request_id", "image_id", "padding_info", IMAGE]).encode()
    case.payload = encoded(case)[:-1] + b', "' + name + b'": ' + value + b"}"
    return "dead"


@of_text
def duplicate_keys(case: Case) -> Fate:
    """The last one counts, both where the message is validated and where segments are read."""
    first = {IMAGE: {"shm_name": case.bystanders.allowed}, "is_long": None}
    case.payload = json.dumps(first).encode()[:-1] + b", " + encoded(case)[1:]
    return "delivered"


@of_text
def no_object(case: Case) -> Fate:
    number = b"%d" % case.number
    case.payload = case.rng.choice(
        [
            number, b'"%s"' % number, b"[%s]" % number, b"\xff" + number,
            b"\xef\xbb\xbf{}" + number,
            number + b"\n" + FORGED.encode(), b" " * (1 << 20) + number, b"1" * 5000 + number,
            b"\x00" * 10 + number, b'{"request_id": "%s"}' % number,
        ]
    )  # fmt: skip
    return "dead"

"""The fields of a message, read from untrusted JSON.

A value that senders write in several ways is accepted in each of them if it can mean only one
thing. Any other value raises BadMessage with the field's name.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import numpy as np

from core.errors import BadMessage

MAX_ID_LENGTH: Final = 1024

#: The latest time that is accepted, in unix seconds: the year 5138, or 1973 in milliseconds.
LATEST_S: Final = 1e11

#: dtypes that a segment may have. Floating-point values are on the scale of uint8: 0 to 255.
DTYPES: Final[Mapping[str, np.dtype[np.generic]]] = {
    name: np.dtype(name) for name in ("uint8", "bool", "float16", "float32", "float64")
}

#: Byte orders before NumPy's codes of types, as in `<f4`.
_ORDERS: Final = ("", "|", "=", "<", ">")

#: Every spelling of these dtypes that NumPy has: the names, and codes such as `|u1` or `>f4`.
_SPELLINGS: Final[Mapping[str, np.dtype[np.generic]]] = {
    **{name: np.dtype(name) for name in ("ubyte", "bool_", "half", "single", "double", "float")},
    **{
        f"{order}{code}": np.dtype(f"{order}{code}")
        for dtype in DTYPES.values()
        for code in (dtype.str[1:], dtype.char)
        for order in _ORDERS
    },
    **DTYPES,
}

_FLAGS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}

#: Reads numbers as the text that the message has, NaN and infinity as None, and texts with control
#: characters.
_LENIENT: Final = json.JSONDecoder(
    parse_int=str, parse_float=str, parse_constant=lambda _: None, strict=False
)

_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")

_OPENING = re.compile(r"[ \t\r\n]*\{[ \t\r\n]*")
_COLON = re.compile(r"[ \t\r\n]*:[ \t\r\n]*")
_AFTER_VALUE = re.compile(r"[ \t\r\n]*([,}])[ \t\r\n]*")


def json_object(payload: bytes) -> dict[str, Any]:
    """The JSON object of a message. Raises BadMessage."""
    try:
        message = json.loads(payload.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadMessage("bad_json", f"the message cannot be read as UTF-8 JSON: {error}") from None
    if not isinstance(message, dict):
        raise BadMessage("bad_json", f"the message is {shown(message)}, not a JSON object")
    return message


def readable_fields(payload: bytes) -> dict[str, Any]:
    """The fields of a message up to the first one that cannot be read; numbers are texts.

    So the ids and segments of an invalid message are known: one that is cut off, is in another
    encoding, or has numbers that are not JSON.
    """
    text, fields = _decoded(payload), dict[str, Any]()
    before = _OPENING.match(text)
    with contextlib.suppress(ValueError, RecursionError):
        while before is not None:
            name, end = _LENIENT.raw_decode(text, before.end())
            colon = _COLON.match(text, end)
            if colon is None or not isinstance(name, str):
                break
            value, end = _LENIENT.raw_decode(text, colon.end())
            after = _AFTER_VALUE.match(text, end)
            if after is None:  # a number may be cut off
                break
            fields[name] = value
            before = after if after[1] == "," else None
    return fields


def field(message: Mapping[str, Any], name: str) -> Any:
    """The value of a field that must be there."""
    if message.get(name) is None:
        raise BadMessage("bad_field", f"{name} is missing")
    return message[name]


def text(message: Mapping[str, Any], name: str) -> str:
    """A field that is a text."""
    return _text(name, field(message, name), "a string")


def identifier(message: Mapping[str, Any], name: str) -> str:
    """A field that is a text or an integer, which is taken as its text."""
    value = field(message, name)
    is_integer = type(value) is int  # bool is a subclass of int
    return _text(name, str(value) if is_integer else value, "an integer or a string")


def integers(message: Mapping[str, Any], name: str, count: int, minimum: int) -> list[int]:
    """A field that is a list of integers; 300.0 counts as one."""
    value = field(message, name)
    if isinstance(value, list) and len(value) == count:
        numbers = [whole(item) for item in value]
        found = [number for number in numbers if number is not None and number >= minimum]
        if len(found) == count:
            return found
    raise BadMessage(
        "bad_field",
        f"{name} is {shown(value)}, must be a list of {count} integers ≥ {minimum}",
    )


def whole(value: Any) -> int | None:
    """An integer, which may be written as a float such as 300.0; None for any other value."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else None


def optional_time(message: Mapping[str, Any], name: str) -> float | None:
    """A time in unix seconds, also written as a text; None if the field is absent."""
    value = message.get(name)
    if value is None:
        return None
    is_number = type(value) in (int, float) or (isinstance(value, str) and _NUMBER.fullmatch(value))
    try:
        seconds = float(value) if is_number else math.nan
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BadMessage("bad_field", f"{name} is {shown(value)}, must be a time in unix seconds")
    if seconds > LATEST_S:
        raise BadMessage(
            "bad_field",
            f"{name} is {shown(value)}, must be a time in seconds; this may be one in milliseconds",
        )
    return seconds


def flag(message: Mapping[str, Any], name: str) -> bool:
    """A field that is true or false, also written as 1 or 0, or as a text."""
    value = field(message, name)
    written = value.lower() if isinstance(value, str) else str(whole(value))
    known = value if isinstance(value, bool) else _FLAGS.get(written)
    if known is None:
        raise BadMessage("bad_field", f"{name} is {shown(value)}, must be true or false")
    return known


def dtype(message: Mapping[str, Any], name: str) -> np.dtype[np.generic]:
    """A field that names a dtype, in any of NumPy's spellings."""
    known = _SPELLINGS.get(text(message, name))
    if known is None:
        raise BadMessage(
            "bad_dtype", f"{name} is {shown(message[name])}, must be one of {', '.join(DTYPES)}"
        )
    return known


def shown(value: Any) -> str:
    """A value from a message, shortened for an error."""
    try:
        text = ascii(value)
    except ValueError:  # Python's limit on the digits of an integer
        return "a number of too many digits"
    except RecursionError:  # json parses deeper nesting than ascii() does
        return "a value that is nested too deeply"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(name: str, value: Any, allowed: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        raise BadMessage(
            "bad_field",
            f"{name} is {shown(value)}, must be {allowed} of 1 to {MAX_ID_LENGTH} characters",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadMessage(
            "bad_field", f"{name} is {shown(value)}, which is not Unicode text"
        ) from None
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _decoded(payload: bytes) -> str:
    """A message as text. Bytes that are not UTF-8 become surrogates, which no id may have."""
    encoding = json.detect_encoding(payload)
    if encoding.startswith("utf-8"):
        return payload.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")
    return payload.decode(encoding, "replace")

"""The types of settings: how a variable's text is read, and what is allowed."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
)
from pydantic_settings import NoDecode

from core.config.redis_url import check_redis_url

#: Pattern of a segment's name; with a prefix, a longer one would not fit into a file name.
SEGMENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,200}")

#: Value of USE_CUDA with which the worker does not start without a GPU.
REQUIRE: Final = "require"

#: In RESULT_QUEUE, stands for the id of a request.
REQUEST_ID: Final = "{request_id}"

#: The keys of the worker begin with these.
RESERVED: Final = ("inpainting:", "inpainting_result:")

_BOOLEAN: Final = TypeAdapter(bool)


def _redis_url(value: str) -> str:
    try:
        check_redis_url(value)
    except ValueError as error:
        raise ValueError(
            f"{error}; it must be a URL like redis://host:6379, rediss://…, unix:///path or "
            "redis+sentinel://host:26379,host:26379/service"
        ) from None
    return value


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~x, and there is no user x
        return path


def _name_prefix(value: str) -> str:
    if not SEGMENT_NAME.fullmatch(value) or len(value) > 40:
        raise ValueError(
            "it must be 1 to 40 letters, digits, '_', '.' or '-', and begin with a letter or digit"
        )
    return value


def _cuda(value: Any) -> Any:
    if isinstance(value, str) and value.lower() != REQUIRE:
        try:
            return _BOOLEAN.validate_python(value)
        except ValidationError:
            raise ValueError("it must be 1 or 0, or require") from None
    return value.lower() if isinstance(value, str) else value


def _commas(value: Any) -> Any:
    return (
        [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str)
        else value
    )


def _octal(value: Any) -> Any:
    if isinstance(value, str):
        if not re.fullmatch(r"(0o)?[0-7]{3,4}", value):
            raise ValueError("it must be an octal file mode such as 0600")
        return int(value, 8)
    return value


def _level(value: str) -> str:
    levels = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
    if value.upper() not in levels:
        raise ValueError(f"it must be one of {', '.join(levels)}")
    return value.upper()


def _log_format(value: str) -> str:
    if value.lower() not in ("text", "json"):
        raise ValueError("it must be text or json")
    return value.lower()


def _utf8(value: str) -> str:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("it must be UTF-8 text") from None
    return value


def _with_host(value: str) -> str:
    return value.replace("{host}", socket.gethostname())


def _queue(value: str) -> str:
    name = _with_host(value)
    for prefix in RESERVED:
        if name.startswith(prefix):
            raise ValueError(f"{name!r} is not free: the worker's own keys begin with {prefix}")
    return name


def _result_queue(value: str) -> str:
    name = _with_host(value)
    if unknown := re.search(r"[{}].*", name.replace(REQUEST_ID, ""), re.DOTALL):
        raise ValueError(f"{unknown[0]!r} is not known; {REQUEST_ID} and {{host}} are")
    start, has_id, _ = name.partition(REQUEST_ID)
    for prefix in RESERVED:
        # A request id is chosen by its sender: it must not complete the name of another key.
        if start.startswith(prefix) or (has_id and prefix.startswith(start)):
            raise ValueError(f"it must not be able to name a key of the worker, {prefix}…")
    return name


RedisUrl = Annotated[str, AfterValidator(_redis_url)]
FilePath = Annotated[Path, AfterValidator(_at_home)]
NamePrefix = Annotated[str, AfterValidator(_name_prefix)]
NamePrefixes = Annotated[tuple[NamePrefix, ...], NoDecode, BeforeValidator(_commas)]
Uids = Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode, BeforeValidator(_commas)]
FileMode = Annotated[int, BeforeValidator(_octal)]
LogLevel = Annotated[str, AfterValidator(_level)]
LogFormat = Annotated[str, AfterValidator(_log_format)]
QueueName = Annotated[str, Field(min_length=1), AfterValidator(_utf8), AfterValidator(_queue)]
ResultQueue = Annotated[str, AfterValidator(_utf8), AfterValidator(_result_queue)]
UseCuda = Annotated[bool | Literal["require"], BeforeValidator(_cuda)]
Number = Annotated[float, AllowInfNan(False)]

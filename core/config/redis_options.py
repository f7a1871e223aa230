"""The options in the query of REDIS_URL: what each may be, and which of them the worker decides."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote_plus

#: Options of redis-py that the worker sets itself. In the URL they have no effect.
OWN: Final = frozenset(
    {
        "decode_responses", "encoding", "encoding_errors", "legacy_responses", "lib_name",
        "lib_version", "max_connections", "protocol", "retry", "retry_on_error",
        "retry_on_timeout", "single_connection_client", "socket_connect_timeout",
        "socket_read_size", "socket_timeout", "socket_type", "timeout",
    }
)  # fmt: skip

#: Options whose values are passwords.
SECRET: Final = frozenset({"password", "sentinel_password", "ssl_password"})

#: What helps if an unknown option is said to be in the query.
_ENCODE: Final = (
    "if it is part of a password, percent-encode the password: & is %26, ? is %3F, / is %2F"
)

_HINTS: Final = {
    "ssl": "TLS is in the scheme: rediss:// or rediss+sentinel://",
    "host": "the host stands before the ?",
    "port": "the port stands before the ?",
    "path": "the path stands before the ?",
}

_TLS_VERSIONS: Final = {"TLSV1_2": ssl.TLSVersion.TLSv1_2, "TLSV1_3": ssl.TLSVersion.TLSv1_3}


def _text(value: str) -> str:
    return value


def _client_name(value: str) -> str:
    if not re.fullmatch(r"[!-~]+", value):
        raise ValueError("must be ASCII without spaces")
    return value


def _flag(value: str) -> bool:
    if value.lower() not in ("1", "0", "true", "false", "yes", "no"):
        raise ValueError("must be true or false")
    return value.lower() in ("1", "true", "yes")


def _whole(value: str) -> int:
    if not re.fullmatch(r"\d{1,9}", value):
        raise ValueError("must be a whole number")
    return int(value)


def _cert_reqs(value: str) -> str:
    if value.lower() not in ("none", "optional", "required"):
        raise ValueError("must be none, optional or required")
    return value.lower()


def _tls_version(value: str) -> ssl.TLSVersion:
    name = value.upper().replace(".", "_")
    if name not in _TLS_VERSIONS and value not in map(str, map(int, _TLS_VERSIONS.values())):
        raise ValueError("must be TLSv1_2 or TLSv1_3")
    return _TLS_VERSIONS.get(name) or ssl.TLSVersion(int(value))


def _verify_flags(value: str) -> list[ssl.VerifyFlags]:
    try:
        return [ssl.VerifyFlags[name.strip()] for name in value.strip("[]").split(",")]
    except KeyError:
        raise ValueError(f"must be some of {', '.join(ssl.VerifyFlags.__members__)}") from None


#: The options that a URL may have, and what makes a keyword argument of each.
_READ: Final[Mapping[str, Callable[[str], Any]]] = {
    "db": _whole,
    "username": _text,
    "password": _text,
    "client_name": _client_name,
    "health_check_interval": _whole,
    "socket_keepalive": _flag,
    "sentinel_username": _text,
    "sentinel_password": _text,
    "ssl_ca_certs": _text,
    "ssl_ca_data": _text,
    "ssl_ca_path": _text,
    "ssl_cert_reqs": _cert_reqs,
    "ssl_certfile": _text,
    "ssl_check_hostname": _flag,
    "ssl_ciphers": _text,
    "ssl_exclude_verify_flags": _verify_flags,
    "ssl_include_verify_flags": _verify_flags,
    "ssl_keyfile": _text,
    "ssl_min_version": _tls_version,
    "ssl_password": _text,
}

KNOWN: Final = frozenset({*_READ, *OWN})

#: Options whose values may be shown. The value of any other one may be a secret.
SHOWN: Final = KNOWN - SECRET - {"username", "sentinel_username", "ssl_ca_data"}


def read_options(query: str, *, tls: bool, sentinel: bool) -> tuple[dict[str, Any], list[str]]:
    """The keyword arguments that a query stands for, and the options that have no effect.

    Raises ValueError with the option's name and what is wrong. The text has no values, and no
    names that may be a part of a password.
    """
    found: dict[str, Any] = {}
    ignored: list[str] = []
    before = ""
    for part in filter(None, query.split("&")):
        raw, equals, value = part.partition("=")
        name = decoded(raw)
        if name not in _READ and name not in OWN:
            raise ValueError(_unknown(name if equals and "@" not in query else "", before))
        if name in found or name in ignored:
            raise ValueError(f"the option {name} is there twice")
        if name in OWN:
            ignored.append(name)
        elif value:
            found[name] = _value(name, value)
            _check_place(name, tls=tls, sentinel=sentinel)
        before = name
    for name, needed in (
        ("sentinel_username", "sentinel_password"),
        ("ssl_keyfile", "ssl_certfile"),
        ("ssl_password", "ssl_certfile"),
    ):
        if name in found and needed not in found:
            raise ValueError(f"the option {name} needs {needed} too")
    return found, ignored


def check_tls(options: Mapping[str, Any]) -> None:
    """Raise ValueError with the option's name if a TLS context can't be made."""
    if not any(name.startswith("ssl_") for name in options):
        return
    context = ssl.create_default_context()
    get = options.get
    steps: dict[tuple[str, ...], Callable[[], object]] = {
        ("ssl_ca_certs",): lambda: context.load_verify_locations(cafile=get("ssl_ca_certs")),
        ("ssl_ca_data",): lambda: context.load_verify_locations(cadata=get("ssl_ca_data")),
        ("ssl_ca_path",): lambda: next(Path(options["ssl_ca_path"]).iterdir()),
        ("ssl_certfile", "ssl_keyfile", "ssl_password"): lambda: context.load_cert_chain(
            # Without a password OpenSSL would ask for one on the terminal.
            options["ssl_certfile"], get("ssl_keyfile"), get("ssl_password", "")
        ),
        ("ssl_ciphers",): lambda: context.set_ciphers(options["ssl_ciphers"]),
    }  # fmt: skip
    for names, step in steps.items():
        if given := [name for name in names if name in options]:
            try:
                step()
            except (OSError, ValueError, StopIteration) as error:
                reason = getattr(error, "strerror", None) or str(error) or "the folder is empty"
                verb = "cannot be used together" if len(given) > 1 else "cannot be used"
                raise ValueError(f"{', '.join(given)} {verb}: {reason}") from None


def decoded(text: str, unquoted: Callable[..., str] = unquote_plus) -> str:
    """A percent-encoded part, by default of a query; raises ValueError if it is not UTF-8."""
    try:
        return unquoted(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("a part of it is not UTF-8: percent-encode its UTF-8 bytes") from None


def _value(name: str, value: str) -> Any:
    try:
        return _READ[name](decoded(value))
    except ValueError as error:
        raise ValueError(f"the option {name} {error}") from None


def _check_place(name: str, *, tls: bool, sentinel: bool) -> None:
    if name.startswith("ssl_") and not tls:
        raise ValueError(f"the option {name} needs TLS: rediss:// or rediss+sentinel://")
    if name.startswith("sentinel_") and not sentinel:
        raise ValueError(f"the option {name} needs redis+sentinel:// or rediss+sentinel://")


def _unknown(name: str, before: str) -> str:
    """What is said of an option that there is not; its name may be a part of a password."""
    if before in SECRET:
        return f"what follows the option {before} is unknown: {_ENCODE}"
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        return f"there is something unknown after the ?: {_ENCODE}"
    close = difflib.get_close_matches(name.lower(), _READ, 1, 0.8)
    hint = _HINTS.get(name) or (f"is {close[0]} meant?" if close else _ENCODE)
    return f"the option {name} is unknown ({hint})"

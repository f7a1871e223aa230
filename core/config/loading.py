"""Loads the settings, and explains what is wrong with them."""

from __future__ import annotations

import logging
import re
from typing import Any

from pydantic import ValidationError

from core.config.dotenv import check_lines
from core.config.environment import DOTENV, check_dotenv, not_utf8
from core.config.redis_url import without_password
from core.config.settings import Settings
from core.errors import SettingsError

#: What a value must be, where pydantic's own text says what it tried instead.
_MUST_BE = {
    "bool_parsing": "1 or 0",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "float_parsing": "a number",
    "too_short": "at least 1 of them, with commas between several",
}


# It names neither file nor variable; check_lines and doubts do.
logging.getLogger("dotenv.main").setLevel(logging.ERROR)


def load_settings() -> Settings:
    """Settings from the environment and `.env`.

    Raises SettingsError. Its text names each invalid variable, its value and what is allowed, or
    says why `.env` cannot be read.
    """
    try:
        check_dotenv()
        check_lines()
        return Settings()
    except UnicodeDecodeError as error:
        raise not_utf8(error) from None
    except OSError as error:
        raise SettingsError(
            f"{DOTENV.absolute()} cannot be read ({error.strerror}): let this user read it, or "
            "start the worker in another folder"
        ) from None
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    match = re.match(r"Input should be (.*)", message)
    if must_be := _MUST_BE.get(problem["type"], match and match[1]):
        message = f"it must be {must_be}"
    field = str(problem["loc"][0])
    value = _shown_input(field, problem["input"])
    meaning = Settings.model_fields[field].description
    return f"{field.upper()}={value}: {message} ({field.upper()} is: {meaning})"


def _shown_input(field: str, value: Any) -> str:
    """A wrong value as it may be printed."""
    if field != "redis_url" or "://" in str(value):
        return repr(without_password(value) if isinstance(value, str) else value)
    return repr(re.sub(r".*@", "***@", str(value), flags=re.S))  # a URL without its scheme

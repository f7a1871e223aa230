"""The settings: what they are, where they come from, how they are read and shown."""

from core.config.dotenv import doubts
from core.config.loading import load_settings
from core.config.settings import LONGEST_MESSAGE, PROJECT_ROOT, Delivery, Settings, WireFormat
from core.config.values import REQUEST_ID, REQUIRE, SEGMENT_NAME

__all__ = [
    "LONGEST_MESSAGE",
    "PROJECT_ROOT",
    "REQUEST_ID",
    "REQUIRE",
    "SEGMENT_NAME",
    "Delivery",
    "Settings",
    "WireFormat",
    "doubts",
    "load_settings",
]

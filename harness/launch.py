"""The program that tests, chaos and benchmarks start: the real worker with a stub network.

HARNESS_NETWORK names the network (see networks.py). STUB_CONSTANTS changes numbers in modules:
`module.NAME=number`, separated by spaces.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable

from core.config import Settings, load_settings
from core.flow.service import serve
from core.pixels.handover import Network
from core.telemetry import configure_logging
from harness.networks import load_network


def launch(load: Callable[[Settings], Network] = load_network) -> None:
    """Serve until SIGTERM; `load` makes the network."""
    set_constants(os.environ.get("STUB_CONSTANTS", ""))
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    serve(settings, load)


def set_constants(constants: str) -> None:
    """Change numbers in modules."""
    for constant in constants.split():
        name, _, number = constant.partition("=")
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, float(number))


if __name__ == "__main__":
    launch()

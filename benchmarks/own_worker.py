"""The real worker; its network may be a stand-in (see networks.py)."""

from __future__ import annotations

from benchmarks.networks import network
from core.config import load_settings
from core.flow.service import serve
from core.telemetry import configure_logging

if __name__ == "__main__":
    settings = load_settings()
    configure_logging(settings.log_level)
    serve(settings, network)

"""The admin port: metrics, health and the status page, served by threads of their own.

A blocked event loop or a GPU at work must not keep /livez from answering, so nothing in here runs
in the loop. The worker starts it and stops it; a failure in here is a line in the log.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from core.config import Settings

if TYPE_CHECKING:
    from core.admin.server import AdminServer

log = logging.getLogger(__name__)


def start_admin(settings: Settings) -> AdminServer | None:
    """Serve the admin port from now on; None where it is off, or cannot be served."""
    if settings.admin_port == 0:
        return None
    try:
        from core.admin.server import AdminServer

        server = AdminServer(settings)
        server.start()
    except Exception as error:  # whatever it is, jobs come first
        log.warning("no metrics, health and status page: %s", error)
        return None
    return server

"""The admin port: metrics, health and the status page, served by its own threads.

Nothing here runs in the event loop, so that /livez answers even if the loop is blocked or the GPU
is busy. The worker starts and stops the port. An error in here is only logged, except for a port
that was set and is taken: the program that reads it would not find this worker.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from core.config import Settings
from core.errors import NoFreePort

if TYPE_CHECKING:
    from core.admin.server import AdminServer

log = logging.getLogger(__name__)


def start_admin(settings: Settings) -> AdminServer | None:
    """Start to serve the admin port; None if it is off or cannot be served.

    Raises NoFreePort if ADMIN_PORT is set and its port cannot be used.
    """
    if settings.admin_port == 0:
        return None
    try:
        from core.admin.server import AdminServer

        server = AdminServer(settings)
        server.start()
    except Exception as error:  # the worker runs without it
        if isinstance(error, NoFreePort) and len(settings.admin_ports) == 1:
            raise
        log.warning("no metrics, health and status page: %s", error)
        return None
    return server

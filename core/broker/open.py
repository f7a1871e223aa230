"""The queues that the settings ask for."""

from __future__ import annotations

from core.broker.at_most_once import AtMostOnceQueues
from core.broker.queues import Queues
from core.config import Delivery, Settings
from core.identity import Identity


def open_queues(settings: Settings, identity: Identity) -> Queues:
    """The queues with the configured delivery."""
    if settings.delivery is Delivery.AT_MOST_ONCE:
        return AtMostOnceQueues(settings, identity)
    return Queues(settings, identity)

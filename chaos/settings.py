"""Settings of the workers of a run: short intervals and delays."""

from __future__ import annotations

from typing import Final

from chaos.outcomes import OUTCOMES

TTL_S: Final = 1.5
MAX_ATTEMPTS: Final = 5
ORPHAN_AFTER_S: Final = 3.0

SETTINGS: Final = {
    "USE_CUDA": "0",
    "HEARTBEAT_INTERVAL_S": "0.3",
    "HEARTBEAT_TTL_S": str(TTL_S),
    "REAP_INTERVAL_S": "0.5",
    "RETRY_DELAY_S": "0.2",
    "RETRY_DELAY_MAX_S": "2",
    "MAX_ATTEMPTS": str(MAX_ATTEMPTS),
    "ORPHAN_AFTER_S": str(ORPHAN_AFTER_S),
    "RESULT_QUEUE": OUTCOMES,
    "ADMIN_HOST": "127.0.0.1",
    "ADMIN_PORT": "0",
}

#: SHUTDOWN_GRACE_S of a worker, drawn when it starts: the first is too short for a slow inference.
GRACES_S: Final = ("0.7", "5")

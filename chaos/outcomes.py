"""The result queue of a run, compared with how the jobs ended."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Final

from chaos.jobs import COPIES, Case, Jobs

#: list: RESULT_QUEUE of the workers. Nobody takes anything out of it.
OUTCOMES: Final = "chaos:outcomes"


class Outcomes:
    """The outcomes in the queue, by job."""

    def __init__(self, client: Any, jobs: Jobs) -> None:
        self.done: Counter[int] = Counter()
        self.failed: dict[int, list[str]] = {}
        for text in client.lrange(OUTCOMES, 0, -1):
            outcome = json.loads(text)
            # The start of a large message that belongs to no job may name a request too.
            if (found := jobs.find(outcome["request_id"])) is None:
                continue
            if outcome["status"] == "done":
                self.done[found[0]] += 1
            else:
                self.failed.setdefault(found[0], []).append(outcome["reason"])

    def reasons(self, number: int) -> list[str]:
        """Why a job failed; a reason for each failure that was published."""
        return self.failed.get(number, [])

    def problem(
        self, case: Case, number: int, delivered: int, dead: list[str], *, may_be_gone: bool
    ) -> str:
        """What is wrong with the outcomes of a job; empty if nothing is.

        It was delivered so many times and is dead for these reasons, of which some `may_be_gone`.
        """
        done, failed = self.done[number], self.reasons(number)
        most = COPIES.get(case, 1)
        if not delivered <= done <= most or (most == 1 and done != delivered):
            return f"{done} outcomes are done, {delivered} results were delivered"
        if case is Case.NO_JSON:
            return f"an outcome without a request: {failed}" if failed else ""
        others = sorted(reason for reason in failed if reason != "expired")
        if len(failed) > most:
            return f"too many outcomes have failed: {failed}"
        if most == 1 and others != sorted(dead) and not (may_be_gone and not dead):
            return f"outcomes have failed by {others}, dead by {dead}"
        return ""

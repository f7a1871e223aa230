"""Logs and records every job state change."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from core.claims import Claim
from core.contract import Job
from core.errors import JobError
from core.telemetry import log_extra, tracing, watch

log = logging.getLogger(__name__)


def taken(claim: Claim, job: Job) -> None:
    """A job was claimed and loaded."""
    request_id = job.request_id
    log.debug(
        "request %s taken from the %s queue", request_id, claim.kind, extra=log_extra(request_id)
    )


def waits(job: Job, error: Exception) -> None:
    """A finished job finds no room in shared memory at present."""
    log.warning("request %s waits: %s", job.request_id, error, extra=log_extra(job.request_id))


def postponed(claim: Claim, error: Exception, delay_s: float) -> None:
    """A job is put behind the others of its queue."""
    log.warning(
        "%s is put behind the others of its queue in %g s: %s",
        _name(claim),
        delay_s,
        error,
        extra=_log_extra(claim),
    )


def given_back(claim: Claim, error: Exception) -> None:
    """A job goes back to its queue without an attempt, because the failure is not its fault."""
    watch.job_ended(claim.kind, "given_back")
    log.debug("%s is given back: %s", _name(claim), error, extra=_log_extra(claim))


def refused(claim: Claim, error: JobError) -> None:
    """A message, of which `claim` has the start, was too large to be claimed."""
    log.error("%s is dead (%s): %s", _name(claim), error.reason, error, extra=_log_extra(claim))
    watch.job_failed(claim.kind, claim.request, error.reason, str(error), 1, dead=True)


def expired(claim: Claim, error: JobError) -> None:
    """A job was not begun in time."""
    watch.job_ended(claim.kind, "expired")
    log.warning(
        "%s is not computed, its inputs are removed: %s",
        _name(claim),
        error,
        extra=_log_extra(claim),
    )


def superseded(claim: Claim) -> None:
    """A job is dropped because its request has a newer result."""
    watch.job_ended(claim.kind, "superseded")
    log.warning(
        "%s is superseded: the result of a newer submission is out, its inputs are removed",
        _name(claim),
        extra=_log_extra(claim),
    )


def lost(claim: Claim, job: Job) -> None:
    """A finished job is no longer this worker's."""
    watch.job_ended(claim.kind, "lost")
    request_id = job.request_id
    log.warning(
        "request %s is no longer this worker's: its result is discarded",
        request_id,
        extra=log_extra(request_id),
    )


def done(job: Job, segment: str) -> None:
    """A job's result is committed and its inputs are unlinked."""
    log.debug("request %s done: %s", job.request_id, segment, extra=log_extra(job.request_id))


def batch_done(
    kind: str,
    jobs: Sequence[Job],
    delivered: int,
    *,
    load_s: float,
    infer_s: float,
    store_s: float,
    total_s: float,
) -> None:
    """A batch has passed all stages; `jobs` are those that could be loaded."""
    requests = [job.request_id for job in jobs]
    log.info(
        "batch of %d %s: %d delivered, total %.3f s, inference %.3f s, post-processing %.3f s: %s",
        len(jobs),
        kind,
        delivered,
        total_s,
        infer_s,
        store_s,
        ", ".join(requests),
        extra=log_extra(*requests),
    )
    watch.batch_done(
        kind, requests, delivered, load_s=load_s, infer_s=infer_s, store_s=store_s, total_s=total_s
    )


def failed(
    claim: Claim, error: JobError, attempt: int, allowed: int, delay_s: float | None
) -> None:
    """An attempt has failed: the job is retried after `delay_s`, or dead if that is None."""
    extra = _log_extra(claim)
    if delay_s is None:
        log.error(
            "%s is dead (%s, attempt %d): %s",
            _name(claim),
            error.reason,
            attempt,
            error,
            extra=extra,
        )
    else:
        log.warning(
            "%s failed and is tried again in %g s (attempt %d of %d): %s",
            _name(claim),
            delay_s,
            attempt,
            allowed,
            error,
            extra=extra,
        )
    watch.job_failed(
        claim.kind, claim.request, error.reason, str(error), attempt, dead=delay_s is None
    )
    tracing.failed(claim.payload, error.reason, str(error), attempt)


def failed_unexpectedly(claim: Claim, error: Exception) -> None:
    """An attempt has failed with an exception that is not a JobError."""
    log.error("%s failed unexpectedly", _name(claim), exc_info=error, extra=_log_extra(claim))


def _log_extra(claim: Claim) -> Mapping[str, Any] | None:
    return log_extra(claim.request_id) if claim.request else None


def _name(claim: Claim) -> str:
    if claim.request is None:
        return f"a message on the {claim.kind} queue"
    return f"request {claim.request_id}"

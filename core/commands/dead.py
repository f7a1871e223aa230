"""`dead`: the dead-letter list, jobs that were given up."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any

from core.broker.dead_job import DeadJob
from core.broker.dead_list import DeadList, Filter
from core.commands.common import (
    add_command,
    ago,
    connected,
    duration,
    print_json_list,
    shortened,
    table,
)
from core.config import load_settings
from core.errors import WorkerError
from core.keys import Kind
from core.telemetry.logs import number_of, printable


class NothingNamed(WorkerError):
    """No dead job is selected, or none matches."""


def add(commands: Any) -> None:
    """Add the command's parser, with subcommands."""
    parser = commands.add_parser(
        "dead",
        help="list, show, retry or discard jobs that were given up",
        description="The dead-letter list: jobs that were given up. COMMAND --help has examples.",
    )
    parser.set_defaults(command=lambda _: parser.print_help() or 2)
    below = parser.add_subparsers(title="commands", metavar="COMMAND")

    listing = add_command(
        below,
        "list",
        "list dead jobs, the oldest first",
        "dead list\ndead list --reason segment_missing --newer-than 1h\n"
        "dead list --text banner.jpg --json",
        _list,
    )
    _add_filters(listing)
    listing.add_argument("--limit", type=int, default=0, metavar="N", help="only the last N")

    show = add_command(
        below, "show", "show everything about a dead job", "dead show 3f2a9c01d4e5", _show
    )
    show.add_argument("ids", nargs="+", metavar="ID", help="start of an id, or a request's id")

    retry = add_command(
        below,
        "retry",
        "put dead jobs back at the tail of their queues, with attempts reset",
        "dead retry 3f2a9c01d4e5\ndead retry --reason crashed --newer-than 1d\ndead retry --all",
        _retry,
    )
    _add_filters(retry)
    retry.add_argument("--all", action="store_true", help="every dead job")
    retry.add_argument(
        "--force",
        action="store_true",
        help="also those that would fail again: their message is refused, or inputs are gone",
    )
    retry.add_argument("--dry-run", action="store_true", help="only say which")

    discard = add_command(
        below,
        "discard",
        "drop dead jobs and unlink their inputs in shared memory",
        "dead discard 3f2a9c01d4e5\ndead discard --reason bad_json\ndead discard --older-than 2d",
        _discard,
    )
    _add_filters(discard)
    discard.add_argument("--all", action="store_true", help="every dead job")
    discard.add_argument("--dry-run", action="store_true", help="only say which")


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="start of an id, or a request's id")
    parser.add_argument("--reason", default="", help="such as crashed or segment_missing")
    parser.add_argument("--queue", choices=list(map(str, Kind)), help="the kind of its queue")
    parser.add_argument("--text", default="", help="part of the error, request or image id")
    parser.add_argument("--older-than", type=duration, metavar="TIME", help="such as 10m, 2h, 7d")
    parser.add_argument("--newer-than", type=duration, metavar="TIME", help="the same")


def _filter(options: argparse.Namespace, queues: Mapping[Kind, str]) -> Filter:
    return Filter(
        tuple(options.ids),
        options.reason,
        queues[Kind(options.queue)] if options.queue else "",
        options.text,
        options.older_than,
        options.newer_than,
    )


def _list(options: argparse.Namespace) -> int:
    settings = load_settings()
    with connected(settings.redis_url) as client:
        dead = DeadList(settings, client)
        jobs = dead.matching(_filter(options, settings.queues))
        if options.limit > 0:
            jobs = iter(deque(jobs, options.limit))
        if options.json:
            print_json_list(_described(dead, job, settings.max_message_bytes) for job in jobs)
            return 0
        rows = [_row(dead, job) for job in jobs]
    head = ("id", "ago", "reason", "attempts", "queue", "request", "inputs", "error")
    print(table(head, rows) if rows else "no dead jobs")
    return 0


def _show(options: argparse.Namespace) -> int:
    settings = load_settings()
    with connected(settings.redis_url) as client:
        dead = DeadList(settings, client)
        named = dead.matching(Filter(ids=tuple(options.ids)))
        whole = (job for head in named if (job := dead.read(head)))
        described = (_described(dead, job, settings.max_message_bytes) for job in whole)
        first = next(described, None)
        if first is None:
            raise NothingNamed(f"no dead job is named by {', '.join(options.ids)}")
        if options.json:
            print_json_list(chain([first], described))
            return 0
        for fields in chain([first], described):
            for name, value in fields.items():
                print(f"{name:<11}{printable(_for_people(name, value))}")
            print()
    return 0


def _retry(options: argparse.Namespace) -> int:
    def refusal(dead: DeadList, job: DeadJob) -> str:
        return dead.obstacle(job) if options.force else dead.refusal(job)

    return _change(options, "retried", refusal, DeadList.retry)


def _discard(options: argparse.Namespace) -> int:
    def refusal(dead: DeadList, job: DeadJob) -> str:
        return "" if dead.is_ours(job) else dead.obstacle(job)

    return _change(options, "discarded", refusal, DeadList.discard)


def _change(
    options: argparse.Namespace,
    verb: str,
    refusal: Callable[[DeadList, DeadJob], str],
    change: Callable[[DeadList, DeadJob], bool],
) -> int:
    settings = load_settings()
    would = "would be " if options.dry_run else ""
    matches = _filter(options, settings.queues)
    if matches == Filter() and not options.all:
        raise NothingNamed("name dead jobs, give a filter, or --all")
    counts, left = Counter[str](), Counter[str]()

    def outcomes(dead: DeadList) -> Iterator[dict[str, str]]:
        for job in dead.matching(matches):
            reason = refusal(dead, job)
            if not reason and not options.dry_run and not change(dead, job):
                reason = "no longer on the list"
            outcome = f"left alone: {reason}" if reason else f"{would}{verb}"
            counts["left" if reason else verb] += 1
            if reason:
                left[reason.partition(":")[0]] += 1
            yield {"id": job.id, "request_id": job.request_id, "outcome": outcome}

    with connected(settings.redis_url) as client:
        changes = outcomes(DeadList(settings, client))
        if options.json:
            print_json_list(changes)
        else:
            for entry in changes:
                request = entry["request_id"] or "no request"
                print(printable(f"{entry['id']}  {request}  {entry['outcome']}"))
            print(f"{counts[verb]} of {counts.total()} {would}{verb}")
    why = ", ".join(f"{count}: {reason}" for reason, count in left.most_common())
    if counts[verb]:
        if left:
            jobs = number_of(left.total(), "job")
            print(printable(f"{jobs} left alone ({why})"), file=sys.stderr)
        return 0
    # Not an exception: with --json the list has been printed already.
    nothing = f"nothing {would or 'was '}{verb}"
    problem = f"{nothing}: {_no_match(options)}"
    if left:
        problem = f"{nothing}, all jobs were left alone ({why})"
    print(printable(f"worker.py: {problem}"), file=sys.stderr)
    return 1


def _no_match(options: argparse.Namespace) -> str:
    if options.ids:
        return f"no dead job is named by {', '.join(options.ids)}"
    return "there are no dead jobs" if options.all else "no dead job matches"


def _for_people(name: str, value: Any) -> str:
    """A field of a job: times with their age, objects as JSON."""
    if name == "at":
        moment = datetime.fromtimestamp(value).astimezone()
        return f"{moment.isoformat(timespec='seconds')} ({ago(value)} ago)"
    if name == "message" and not isinstance(value, str):
        return "not kept" if value is None else json.dumps(value, ensure_ascii=False)
    return str(value)


def _inputs(dead: DeadList, job: DeadJob) -> str:
    return {True: "here", False: "gone", None: "elsewhere"}[dead.inputs_here(job)]


def _row(dead: DeadList, job: DeadJob) -> tuple[object, ...]:
    return (
        job.id,
        ago(job.at),
        job.reason,
        job.attempts,
        job.queue,
        shortened(job.request_id, 40) or "none",
        _inputs(dead, job),
        shortened(job.error, 100),
    )


def _described(dead: DeadList, job: DeadJob, most_bytes: int) -> dict[str, Any]:
    """A job as a dict, with up to `most_bytes` of its message.

    The message is None if only the entry's head was read.
    """
    message: Any = None
    if job.payload is not None:
        message = job.payload[:most_bytes].decode("utf-8", "replace")
        with contextlib.suppress(ValueError, RecursionError):  # else as text
            message = json.loads(message)
    return {
        "id": job.id,
        "at": job.at,
        "reason": job.reason,
        "error": job.error,
        "attempts": job.attempts,
        "queue": job.queue,
        "worker": job.worker,
        "namespace": job.namespace,
        "request_id": job.request_id,
        "image_id": job.image_id,
        "inputs": _inputs(dead, job),
        "length": job.length,
        "sha1": job.sha1,
        "message": message,
    }

"""The account: what became of every job, every segment and every key."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from chaos.consumer import FETCHED, VERDICTS
from chaos.jobs import DEV_SHM, HOPELESS, QUEUES, Case, Jobs
from core import keys

#: Reasons for which a job that was as it should be may be dead all the same.
EXCUSES = {
    Case.LATE: {"crashed", "segment_missing"},  # it came too late
    Case.TWICE: {"crashed", "segment_missing"},  # the other copy was done
}

#: What may be in Redis when all is over and no worker runs.
LASTING = re.compile(r"inpainting:segments:|inpainting:reaper:|inpainting_result:|chaos:")


@dataclass
class Account:
    """The sums of a run; all is well if `wrong` is empty."""

    jobs: int = 0
    unsure: int = 0
    delivered: int = 0
    refused: int = 0
    given_up: Counter[str] = field(default_factory=Counter)  # good jobs, by reason
    lost: int = 0
    too_often: int = 0
    segments_left: int = 0
    keys_left: int = 0
    wrong: list[str] = field(default_factory=list)


def is_idle(client: Any) -> bool:
    """Whether everything that was sent has come to its end and was fetched."""
    if client.exists(*QUEUES, FETCHED):
        return False
    lists = ("inpainting:processing:*", "inpainting:cleanup:*")
    if any(True for pattern in lists for _ in client.scan_iter(pattern, 1000)):
        return False
    return not any(
        client.hexists(key, "inpaint_shm_info")
        for key in client.scan_iter("inpainting_result:*", 1000)
    )


def dead_jobs(client: Any, jobs: Jobs) -> dict[int, list[str]]:
    """The numbers of the jobs on the dead list, and the reasons of each."""
    dead: dict[int, list[str]] = {}
    for entry in client.lrange(keys.DEAD, 0, -1):
        about = json.loads(entry)
        number = int(re.findall(rf"{jobs.tag}(\d+)", about["raw"])[0])
        dead.setdefault(number, []).append(about["reason"])
    return dead


def remove_unsent(client: Any, jobs: Jobs, unsure: set[int]) -> None:
    """Unlink what a producer left that died before it had sent these jobs.

    Those of dead jobs are the workers' to remove.
    """
    for number in unsure - dead_jobs(client, jobs).keys():
        jobs.remove(number)


def jobs_account(client: Any, jobs: Jobs, begun: set[int], sent: set[int]) -> Account:
    """What became of every job; to be made while dead jobs still have their inputs."""
    account = Account(jobs=len(sent), unsure=len(begun - sent))
    delivered: Counter[int] = Counter()
    for name, verdict in client.hgetall(VERDICTS).items():
        request, problem = json.loads(verdict)
        delivered[jobs.number(request)] += 1
        if problem:
            account.wrong.append(f"{request}: {problem}: {name.decode()}")
    dead = dead_jobs(client, jobs)
    for number in sorted(begun):
        _enter(account, jobs, number, number in sent, delivered[number], dead.get(number, []))
    for number in {*delivered, *dead} - begun:
        account.wrong.append(f"{jobs.request(number)} was never sent")
    return account


def _enter(
    account: Account, jobs: Jobs, number: int, is_sent: bool, count: int, reasons: list[str]
) -> None:
    """Enter one job: delivered `count` times, on the dead list for `reasons`."""
    case = jobs.case(number)
    about = f"{jobs.request(number)} ({case}): delivered {count} times, dead: {reasons}"
    most = 2 if case in (Case.AGAIN, Case.TWICE) else 1
    account.delivered += count
    if is_sent and not count and not reasons:
        account.lost += 1
        account.wrong.append(f"lost: {about}")
    if count > most or (case in HOPELESS and count):
        account.too_often += 1
        account.wrong.append(f"delivered too often: {about}")
    if count + len(reasons) > most:
        account.wrong.append(f"in too many places: {about}")
    allowed = {HOPELESS[case], "crashed"} if case in HOPELESS else EXCUSES.get(case, {"crashed"})
    if not {*reasons} <= allowed:
        account.wrong.append(f"dead without need: {about}")
    if case in HOPELESS:
        account.refused += len(reasons)
    elif reasons and not count:
        account.given_up[reasons[0]] += 1
    if reasons == ["crashed"] and not count and case not in (Case.NO_JSON, Case.NO_SEGMENT):
        missing = [name for name in jobs.names(number) if not (DEV_SHM / name).exists()]
        if missing and is_sent:
            account.wrong.append(f"inputs of a dead job are gone: {about}: {missing}")


def count_leftovers(account: Account, client: Any, jobs: Jobs) -> None:
    """Enter what is left when dead jobs have expired and no worker runs any more."""
    left = sorted(jobs.segments())
    account.segments_left = len(left)
    account.wrong += [f"segment left: {name}" for name in left[:20]]
    names = [key.decode() for key in client.scan_iter(count=1000)]
    names = [name for name in names if not LASTING.match(name)]
    account.keys_left = len(names)
    account.wrong += [f"key left: {name}" for name in names[:20]]

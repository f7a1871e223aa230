"""The account: what happened to every job, every segment and every key."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos import large
from chaos.jobs import COPIES, HOPELESS, QUEUES, Case, Jobs
from chaos.large import LargeMessage
from chaos.outcomes import Outcomes
from chaos.receiver import FETCHED, VERDICTS
from chaos.settings import MAX_ATTEMPTS
from core import keys
from harness.wire import DEV_SHM

#: Reasons for which a valid job may be on the dead-letter list.
EXCUSES: Final = {
    Case.LATE: {"crashed", "segment_missing"},  # it came too late
    Case.TWICE: {"crashed", "segment_missing"},  # the other copy was done
}

#: In how many crashes a good job must have been computed that is given up as `crashed`. In one more
#: it may have been read, which is not recorded.
LEAST_CRASHES: Final = MAX_ATTEMPTS - 1

#: What may be in Redis when all is over and no worker runs; of one namespace, where it has one.
LASTING: Final = re.compile(
    r"(inpainting:(?:segments|reaper):(?P<namespace>.*)"
    r"|inpainting:crews|inpainting_result:.*|chaos:.*)"
)

#: Lists, sets and hashes that are there while something is under way.
UNDER_WAY: Final = ("inpainting:processing:*", "inpainting:cleanup:*", "inpainting:delayed:*")


@dataclass
class Account:
    """The totals of a run; it passed if `wrong` is empty."""

    jobs: int = 0
    unsure: int = 0
    delivered: int = 0
    refused: int = 0
    truncated: int = 0
    expired: int = 0
    given_up: Counter[str] = field(default_factory=Counter)  # good jobs, by reason
    lost: int = 0
    too_often: int = 0
    segments_left: int = 0
    keys_left: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class Evidence:
    """What the arena knows, and Redis does not, about the ends of jobs.

    `crashes` has of each job how many processes were killed or frozen that had begun to compute it.
    `outages` are the times, in unix seconds, in which every inference killed its process.
    `had_guests` says that workers with a /dev/shm of their own took jobs: what they refuse is on
    the dead-letter list only until their namespace is dissolved. `outcomes` are those in the
    result queue; None if there is none.
    """

    crashes: Counter[int] = field(default_factory=Counter)
    outages: list[tuple[float, float]] = field(default_factory=list)
    large: list[LargeMessage] = field(default_factory=list)
    had_guests: bool = False
    outcomes: Outcomes | None = None


@dataclass(frozen=True, slots=True)
class Death:
    """An entry of the dead-letter list."""

    reason: str
    edition: int
    at: float


@dataclass
class Fate:
    """The outcome of a job: the editions that were fetched, in order, and those that are dead."""

    delivered: list[int | None] = field(default_factory=list)
    dead: list[Death] = field(default_factory=list)
    expired: int = 0

    @property
    def reasons(self) -> list[str]:
        """The editions on the dead-letter list."""
        return [death.reason for death in self.dead]


def is_idle(client: Any) -> bool:
    """Whether every job that was sent has ended, and every result was fetched."""
    if client.exists(*QUEUES, FETCHED):
        return False
    if any(True for pattern in UNDER_WAY for _ in client.scan_iter(pattern, 1000)):
        return False
    return not any(
        client.hexists(key, "inpaint_shm_info")
        for key in client.scan_iter("inpainting_result:*", 1000)
    )


def remove_unsent(client: Any, jobs: Jobs, unsure: set[int]) -> None:
    """Unlink what a sender left that died before it had sent these jobs.

    Those of dead jobs are the workers' to remove.
    """
    dead = {found[0] for entry in _dead(client) if (found := jobs.find(str(entry["raw"])))}
    for number in unsure - dead:
        jobs.remove(number)


def jobs_account(
    client: Any, jobs: Jobs, begun: set[int], sent: set[int], evidence: Evidence | None = None
) -> Account:
    """The outcome of every job; must be taken while dead jobs still have their inputs."""
    evidence = evidence or Evidence()
    account = Account(jobs=len(sent), unsure=len(begun - sent))
    fates: defaultdict[int, Fate] = defaultdict(Fate)
    _read_verdicts(account, client, jobs, fates)
    others = _read_dead(client, jobs, fates)
    account.truncated = len(evidence.large)
    account.wrong += large.check(evidence.large, others, may_be_gone=evidence.had_guests)
    for number in sorted(begun):
        _enter(account, jobs, number, number in sent, fates[number], evidence)
    account.wrong += [f"{jobs.request(number)} was never sent" for number in fates.keys() - begun]
    _check_outages(account, jobs, fates, evidence.outages)
    return account


def _read_verdicts(account: Account, client: Any, jobs: Jobs, fates: dict[int, Fate]) -> None:
    """The receiver's verdicts, in the order in which results were fetched."""
    verdicts = [(json.loads(text), name) for name, text in client.hgetall(VERDICTS).items()]
    for verdict, name in sorted(verdicts, key=lambda noted: int(noted[0]["order"])):
        fates[jobs.number(verdict["request"])].delivered.append(verdict["edition"])
        if verdict["problem"]:
            account.wrong.append(f"{verdict['request']}: {verdict['problem']}: {name.decode()}")


def _read_dead(client: Any, jobs: Jobs, fates: dict[int, Fate]) -> list[dict[str, Any]]:
    """The dead-letter list; those of its entries are returned that belong to none of the jobs."""
    others = []
    for entry in _dead(client):
        if found := jobs.find(str(entry["raw"])):
            number, edition = found
            death = Death(entry["reason"], edition, float(entry.get("at", 0)))
            fates[number].dead.append(death)
        else:
            others.append(entry)
    return others


def _dead(client: Any) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in client.lrange(keys.DEAD, 0, -1)]


def _enter(
    account: Account, jobs: Jobs, number: int, is_sent: bool, fate: Fate, evidence: Evidence
) -> None:
    """Enter one job."""
    case, count, reasons = jobs.case(number), len(fate.delivered), fate.reasons
    if evidence.outcomes:
        fate.expired = evidence.outcomes.reasons(number).count("expired")
        account.expired += fate.expired
    about = f"{jobs.request(number)} ({case}): delivered {fate.delivered}, dead: {reasons}"
    most = COPIES.get(case, 1)
    account.delivered += count
    may_be_gone = case in HOPELESS and evidence.had_guests
    if is_sent and _is_lost(case, fate) and not may_be_gone:
        account.lost += 1
        account.wrong.append(f"lost: {about}")
    if count > most or (case in HOPELESS and count):
        account.too_often += 1
        account.wrong.append(f"delivered too often: {about}")
    if count + len(reasons) + fate.expired > most:
        account.wrong.append(f"in too many places: {about}")
    if fate.expired and case not in (Case.EXPIRED, Case.HASTY):
        account.wrong.append(f"expired, although it has no time: {about}")
    if evidence.outcomes and (
        problem := evidence.outcomes.problem(
            case, number, count, reasons, may_be_gone=evidence.had_guests
        )
    ):
        account.wrong.append(f"{problem}: {about}")
    if case is Case.AGAIN and fate.delivered == [1, 0]:
        account.wrong.append(f"the older edition came after the newer one: {about}")
    allowed = {HOPELESS[case], "crashed"} if case in HOPELESS else EXCUSES.get(case, {"crashed"})
    if not {*reasons} <= allowed:
        account.wrong.append(f"dead without need: {about}")
    if case in HOPELESS:
        account.refused += len(reasons)
    elif reasons and not count:
        account.given_up[reasons[0]] += 1
    if "crashed" in reasons and case in (Case.GOOD, Case.AGAIN):
        crashes = evidence.crashes[number]
        if crashes < LEAST_CRASHES:
            account.wrong.append(f"given up, but computed in {crashes} crashes only: {about}")
    if reasons == ["crashed"] and not count and case not in (Case.NO_JSON, Case.NO_SEGMENT):
        missing = [name for name in jobs.names(number) if not (DEV_SHM / name).exists()]
        if missing and is_sent:
            account.wrong.append(f"inputs of a dead job are gone: {about}: {missing}")


def _is_lost(case: Case, fate: Fate) -> bool:
    """Whether a job has no end. The older edition of a request needs none, the newer one does."""
    if case is Case.AGAIN:
        return 1 not in fate.delivered and all(death.edition != 1 for death in fate.dead)
    return not (fate.delivered or fate.dead or fate.expired)


def _check_outages(
    account: Account, jobs: Jobs, fates: dict[int, Fate], outages: Sequence[tuple[float, float]]
) -> None:
    """Of all that a device kills, one job may be given up while no result is delivered."""
    for began, ended in outages:
        # Entries have whole seconds. In the first one results are delivered that were computed.
        given_up = [
            jobs.request(number)
            for number, fate in fates.items()
            for death in fate.dead
            if death.reason == "crashed" and began + 2 <= death.at < int(ended)
            if jobs.case(number) not in HOPELESS
        ]
        if len(given_up) > 1:
            account.wrong.append(f"given up while the device killed everything: {given_up}")


def count_leftovers(account: Account, client: Any, jobs: Jobs, namespace: str) -> None:
    """Enter what is left when dead jobs have expired and no worker runs any more.

    `namespace` is that of the workers that have lived; of any other one nothing may be left.
    """
    left = sorted(jobs.segments())
    account.segments_left = len(left)
    account.wrong += [f"segment left: {name}" for name in left[:20]]
    names = [key.decode() for key in client.scan_iter(count=1000)]
    names = [name for name in names if not _may_last(name, namespace)]
    account.keys_left = len(names)
    account.wrong += [f"key left: {name}" for name in names[:20]]
    account.wrong += [
        f"a namespace that is gone is among the crews: {other}"
        for other in sorted(_namespaces(client, namespace) - {namespace})
    ]


def _may_last(key: str, namespace: str) -> bool:
    found = LASTING.fullmatch(key)
    return found is not None and found["namespace"] in (None, namespace)


def _namespaces(client: Any, namespace: str) -> set[str]:
    """All namespaces of this host that are mentioned in the hash of crews."""
    boot = namespace.rpartition("-")[0]
    crews = client.hgetall("inpainting:crews")
    text = " ".join(word.decode("utf-8", "replace") for pair in crews.items() for word in pair)
    return set(re.findall(rf"{re.escape(boot)}-\d+", text))

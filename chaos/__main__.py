"""The program: python -m chaos --minutes 5 --seed 1

Runs sender, receiver, workers with a tiny network and a Redis of its own, disturbs them and their
surroundings at random, and accounts for everything at the end. Exits with 1 on any deviation.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Final

from chaos import disturbances, surroundings
from chaos.account import Account
from chaos.arena import Arena, Disturbance
from chaos.programs import Tally
from chaos.settling import settle
from harness import private

#: The disturbances and their weights; the first in the table comes first in a run.
WEIGHTS: Final[dict[Disturbance, float]] = {
    disturbances.kill: 5,
    disturbances.stop: 2,
    disturbances.freeze: 6,
    disturbances.neighbour: 2,
    disturbances.redis: 2,
    disturbances.forget: 2,
    disturbances.network: 8,
    surroundings.large: 1,
    surroundings.blind: 2,
    surroundings.vanish: 1,
    surroundings.readonly: 1,
    surroundings.full: 1.5,
    surroundings.failover: 1.5,
    surroundings.device: 1,
    surroundings.crash: 0.5,
    surroundings.grace: 3,
    surroundings.idle: 2,
}

DISTURBANCES: Final = {each.__name__: each for each in WEIGHTS}

#: Deaths at fault points; not a disturbance, since workers are started with them.
POINTS: Final = "points"


def main() -> int:
    """Run chaos and print the account; 1 if anything deviates."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--logs", type=Path, help="a new folder for all logs, which stays")
    parser.add_argument(
        "--only",
        type=_names,
        default=[*DISTURBANCES, POINTS],
        metavar="NAME,NAME",
        help=f"what is done; of {', '.join(DISTURBANCES)}, and {POINTS} for deaths at fault points",
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing is left running either way
    chosen = possible([DISTURBANCES[name] for name in options.only if name != POINTS])
    folder = options.logs or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(exist_ok=True)
    if any(folder.iterdir()):  # the account would count the jobs of an earlier run
        parser.error(f"--logs {folder} is not empty: name a new folder")
    arena = Arena(
        options.seed,
        options.workers,
        folder,
        has_replica=surroundings.failover in chosen,
        has_points=POINTS in options.only,
    )
    began = time.monotonic()
    with arena.running():
        arena.disturb(options.minutes * 60, {each: WEIGHTS[each] for each in chosen})
        account = settle(arena)
    print(f"seed {options.seed}, {options.workers} workers, {time.monotonic() - began:.0f} s")
    _print(arena.tally, account)
    if account.wrong:
        print(f"{len(account.wrong)} deviations; logs are in {folder}:")
        print(*(f"  {wrong}" for wrong in account.wrong[:40]), sep="\n")
        return 1
    if options.logs is None:
        shutil.rmtree(folder)
    return 0


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted({*names} - {*DISTURBANCES, POINTS}):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: unknown")
    return names


def possible(chosen: list[Disturbance]) -> list[Disturbance]:
    """The disturbances that this machine allows; prints which it does not allow."""
    private_ones = (surroundings.blind, surroundings.vanish, surroundings.readonly)
    in_namespaces = [each for each in private_ones if each in chosen]
    if in_namespaces and not private.is_allowed():
        names = " and ".join(each.__name__ for each in in_namespaces)
        print(f"mount namespaces are refused here: the run goes on without {names}")
        return [each for each in chosen if each not in in_namespaces]
    return chosen


def _print(tally: Tally, account: Account) -> None:
    for name, counts in (
        ("kills", tally.kills),
        ("restarts", tally.restarts),
        ("other harm", tally.others),
        ("given up", account.given_up),
    ):
        print(f"{name:18} {counts.total():6}   {_listed(counts)}")
    for name, number in (
        ("jobs sent", account.jobs),
        ("perhaps sent", account.unsure),
        ("delivered", account.delivered),
        ("refused", account.refused),
        ("too large", account.truncated),
        ("expired", account.expired),
        ("lost", account.lost),
        ("delivered twice", account.too_often),
        ("segments left", account.segments_left),
        ("keys left", account.keys_left),
    ):
        print(f"{name:18} {number:6}")


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())

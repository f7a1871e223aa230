"""The program: python -m chaos --minutes 5 --seed 1

Runs producer, consumer, workers with a tiny network and a Redis of its own, kills, freezes and cuts
them at random, and accounts for everything at the end. Exits with 1 on any deviation.
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

from chaos.account import Account
from chaos.arena import Arena
from chaos.programs import Tally


def main() -> int:
    """Run chaos and print the account; 1 if anything is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--logs", type=Path, help="a folder for all logs, which stays")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing is left running either way
    folder = options.logs or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(exist_ok=True)
    arena = Arena(options.seed, options.workers, folder)
    began = time.monotonic()
    with arena.running():
        arena.disturb(options.minutes * 60)
        account = arena.settle()
    print(f"seed {options.seed}, {options.workers} workers, {time.monotonic() - began:.0f} s")
    _print(arena.tally, account)
    if account.wrong:
        print(f"{len(account.wrong)} deviations; logs are in {folder}:")
        print(*(f"  {wrong}" for wrong in account.wrong[:40]), sep="\n")
        return 1
    if options.logs is None:
        shutil.rmtree(folder)
    return 0


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

"""The program: python -m chaos.hostile --cases 10000"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from chaos.hostile.siege import siege
from harness.redis_server import RedisServer


def main() -> int:
    """Attack; 0 if the worker has taken no harm."""
    parser = argparse.ArgumentParser(prog="python -m chaos.hostile", description=main.__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began = time.monotonic()
    with (
        RedisServer() as server,
        tempfile.TemporaryDirectory() as folder,
        siege(server, Path(folder), options.seed) as attack,
    ):
        report = attack.run(options.cases)
    print(
        f"{report.cases} hostile cases in {time.monotonic() - began:.0f} s: {report.delivered} "
        f"valid all the same, {sum(report.reasons.values())} dead; {report.good} good jobs; "
        f"peak memory {report.peak_mb:.0f} MB"
    )
    for reason, count in report.reasons.most_common():
        print(f"  {reason:20} {count}")
    for wrong in report.wrong:
        print(f"WRONG: {wrong}")
    return min(len(report.wrong), 1)


if __name__ == "__main__":
    sys.exit(main())

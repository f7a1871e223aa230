"""Runs all parts, or those that are named; see the package's docstring."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import machine
from benchmarks.gpu.program import Lines, Part, adopt_orphans, run
from benchmarks.report import RESULTS
from harness import ROOT

#: Seconds of the whole run, less what the last part may take to stop.
BUDGET_S: Final = 468.0
REHEARSAL_S: Final = 105.0


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="all by default")
    parser.add_argument("--seconds", type=float, help=f"of the whole run ({BUDGET_S:.0f})")
    parser.add_argument(
        "--folder", type=Path, help="of the file (benchmarks/results; a rehearsal's: /tmp)"
    )
    parser.add_argument("--only", help=argparse.SUPPRESS)  # one part, in this process
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.describe:
        print(json.dumps(machine.describe()))
    elif options.only:
        _run_here(options.only)
    else:
        _run_all(parser, options)


def _run_here(name: str) -> None:
    """One part. SIGTERM is like Ctrl-C: what it has started is stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    import torch

    from benchmarks.gpu.parts import measure
    from benchmarks.gpu.scale import FULL, REHEARSAL

    for row in measure(name, FULL if torch.cuda.is_available() else REHEARSAL):
        print(json.dumps(row, ensure_ascii=False), flush=True)


def _run_all(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    from benchmarks.gpu.parts import PARTS

    about = _described()
    has_cuda = about["gpu"] is not None
    chosen: Sequence[Part] = [p for p in PARTS if p.name in (options.parts or [p.name])]
    if unknown := set(options.parts) - {part.name for part in PARTS}:
        parser.error(f"no such part: {', '.join(unknown)}")
    path = _path(options.folder, about)
    lines = Lines(path)
    adopt_orphans()
    lines.add("machine", {"date": machine.now(), **about})
    if not has_cuda:
        lines.add("machine", {"rehearsal": "no CUDA device; these figures mean nothing"})
    run(
        chosen,
        lambda part: [sys.executable, "-m", "benchmarks.gpu", "--only", part.name],
        lines,
        has_cuda=has_cuda,
        budget_s=options.seconds or (BUDGET_S if has_cuda else REHEARSAL_S),
    )
    lines.close()
    print(f"\nkept in {path}")


def _described() -> dict[str, Any]:
    """The machine, by a process of its own: this one takes no memory of the GPU."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--describe"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _path(folder: Path | None, about: dict[str, Any]) -> Path:
    """`gpu-nvidia-h200-2026-11-29.jsonl` in the folder."""
    usual = RESULTS if about["gpu"] else Path(tempfile.gettempdir())
    device = (about["gpu"] or "rehearsal").partition(",")[0]
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return (folder or usual) / f"gpu-{name}-{time.strftime('%Y-%m-%d', time.gmtime())}.jsonl"


if __name__ == "__main__":
    main()

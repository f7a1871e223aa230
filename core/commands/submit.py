"""`submit`: sends a picture to a running worker."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from core.commands.common import add_command, print_json, signals_as_interrupts
from core.config import load_settings
from core.telemetry.logs import printable

SIZES = """A picture of up to 4 megapixels is
sent whole, at full size. A larger one is sent as windows around its holes, each in
a job of its own, so that a worker on a CPU does not exceed INFERENCE_TIMEOUT_S."""


def add(commands: Any) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "submit",
        "send a picture of your own to a running worker",
        "submit page.jpg page-mask.png -o clean.png\n"
        "submit page.jpg page-mask.png --kind long --json",
        command,
    )
    parser.description = f"{parser.description} {SIZES}"
    parser.add_argument("image", type=_path, help="the picture")
    parser.add_argument(
        "mask",
        type=_path,
        help="its mask, of the same size; pixels that are not black are the hole; of a layer on "
        "transparent ground or of one colour, all that are visible",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=_path,
        default=Path("inpainted.png"),
        help="where the result goes, in the format of the suffix (%(default)s)",
    )
    parser.add_argument(
        "--kind",
        choices=("long", "short", "auto"),
        default="auto",
        help="the queue; auto: the one whose canvas (long: 1504×864, short: 1024×1024) would "
        "shrink the picture less",
    )
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=120,
        metavar="SECONDS",
        help="how long to wait for the result (%(default)s)",
    )


def _path(text: str) -> Path:
    """A file's name for argparse."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty: name a file")
    return Path(text)


def _seconds(text: str) -> float:
    """A time for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:  # also of nan
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0")
    return seconds


def command(options: argparse.Namespace) -> int:
    """Send the picture and wait for its result."""
    from core.client.files import submit_file
    from core.keys import Kind

    kind_option = None if options.kind == "auto" else Kind(options.kind)
    with signals_as_interrupts():
        done = submit_file(
            load_settings(),
            options.image,
            options.mask,
            options.output,
            kind_option,
            options.timeout,
        )
    if options.json:
        print_json(
            {
                "output": str(options.output),
                "request_id": done.request_ids[0] if done.request_ids else None,
                "request_ids": done.request_ids,
                "kind": done.kind,
                "seconds": round(done.seconds, 3),
                "remarks": {remark.reason: remark.text for remark in done.remarks},
            }
        )
    else:
        print(f"{options.output} written after {done.seconds:.2f} s")
        for remark in done.remarks:
            print(printable(f"note: {options.image}: {remark.text}"), file=sys.stderr)
    return 0

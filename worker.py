"""The front door: python worker.py [run | submit | demo].

Usually found beside `core/` and `lama/`, but it only needs them to be importable: deployments
mount this file elsewhere and set PYTHONPATH.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FOREIGN_CORE = (
    "the package `core` that Python finds ({found}) is not this worker's: something else is "
    "mounted over it. Mount this project's core/ there, or remove that mount"
)


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the exit status."""
    if foreign := _foreign_core():
        return _complain(foreign)
    options = _parser().parse_args(arguments)
    return int(options.command(options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worker.py",
        description="Erases text from pictures: takes jobs from Redis, fills the holes with LaMa.",
        epilog="Settings are environment variables, also read from .env; the README lists them.",
    )
    parser.set_defaults(command=_run)
    commands = parser.add_subparsers(title="commands", metavar="")
    run = commands.add_parser("run", help="serve the queues until SIGTERM (the default)")
    run.set_defaults(command=_run)

    submit = commands.add_parser(
        "submit",
        help="send a picture of your own to a running worker",
        epilog="example: python worker.py submit page.jpg page-mask.png -o clean.png",
    )
    submit.add_argument("image", type=Path, help="the picture")
    submit.add_argument("mask", type=Path, help="its mask: of the same size, not black = hole")
    submit.add_argument("-o", "--output", type=Path, default=Path("inpainted.png"))
    submit.add_argument(
        "--kind",
        choices=("long", "short", "auto"),
        default="auto",
        help="the queue; auto takes the one whose canvas shrinks the picture least",
    )
    submit.add_argument("--timeout", type=float, default=120, metavar="SECONDS")
    submit.set_defaults(command=_submit)

    demo = commands.add_parser("demo", help="erase text from the sample pictures, see out/")
    demo.add_argument("-o", "--output", type=Path, default=Path("out"))
    demo.set_defaults(command=_demo)
    return parser


def _run(_: argparse.Namespace) -> int:
    from core.config import load_settings
    from core.errors import SettingsError
    from core.telemetry import configure_logging

    try:
        settings = load_settings()
    except SettingsError as error:
        return _complain(str(error))
    configure_logging(settings.log_level)

    # Only now, so that a wrong setting is told at once.
    try:
        from core.service import serve
        from core.stages import LaMa
    except ImportError as error:
        return _complain(f"core/, lama/ and what is installed do not go together: {error}")

    return serve(settings, LaMa)


def _submit(options: argparse.Namespace) -> int:
    import cv2

    from core.client import submit_file, suitable_kind
    from core.config import load_settings
    from core.errors import WorkerError
    from core.keys import Kind

    try:
        if options.kind == "auto":
            image = cv2.imread(str(options.image))
            kind = Kind.SHORT if image is None else suitable_kind(*image.shape[:2])
        else:
            kind = Kind(options.kind)
        elapsed = submit_file(
            load_settings(), options.image, options.mask, options.output, kind, options.timeout
        )
    except WorkerError as error:
        return _complain(str(error))
    print(f"{options.output} written after {elapsed:.2f} s")
    return 0


def _demo(options: argparse.Namespace) -> int:
    try:
        from demo.main import run_demo
    except ModuleNotFoundError as error:
        return _complain(f"the demo needs {error.name}: use ./run demo, which installs it")
    return run_demo(options.output)


def _foreign_core() -> str | None:
    """What is wrong with the package `core` that Python finds, if it is not this project's."""
    try:
        import core
    except ModuleNotFoundError as error:
        if error.name == "core":
            return "the package `core` is not found: set PYTHONPATH to the folder that contains it"
        return FOREIGN_CORE.format(found=error)
    except Exception as error:  # a foreign package may raise anything
        return FOREIGN_CORE.format(found=error)
    if getattr(core, "PROJECT", None) != "inpainting-worker":
        return FOREIGN_CORE.format(found=next(iter(core.__path__)))
    return None


def _complain(problem: str) -> int:
    print(f"worker.py: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())

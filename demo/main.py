"""The demo: the real worker erases text from pictures whose clean version is known.

It starts a Redis of its own (or uses the one in REDIS_URL, on queues of its own), starts the
worker as a process of its own, sends it every scene as the pipeline would, and measures what
comes back. Nothing that it started is left running, also after an error.
"""

from __future__ import annotations

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import redis
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.progress import TimeElapsedColumn as Elapsed

from core.commands.common import connected, signals_as_interrupts
from core.config import Settings, load_settings
from core.config.environment import set_variables
from core.config.redis_url import without_password
from core.errors import WorkerError
from core.keys import Kind
from demo.jobs import Jobs, Outcome, Stalled
from demo.metrics import measure
from demo.report import Result, table, write_pictures, write_results, write_sheet
from demo.scenes import Scene, all_scenes
from demo.worker_process import WorkerFailed, WorkerProcess
from harness.redis_server import RedisServer, RedisServerError
from harness.samples import SampleMissing

EXPECTED = (WorkerError, WorkerFailed, Stalled, RedisServerError, SampleMissing)

LEGEND = (
    "s: seconds from submission to result, all pictures having been submitted at once.\n"
    "PSNR, SSIM: likeness to the clean picture over the pixels of the hole, with the text still "
    "there → erased.\n"
    "rest: same if every pixel outside the mask is the one that was sent, else DIFF."
)


def run_demo(output: Path) -> int:
    """Run the demo and leave its pictures and numbers in `output`; the exit status."""
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:  # a log file has no width to fit into
        console = Console(highlight=False, markup=False, width=100, soft_wrap=True)
    try:
        with signals_as_interrupts():
            return _run(output, console)
    except KeyboardInterrupt:
        console.print("interrupted: worker and Redis are stopped, shared memory is cleared")
        return 130
    except EXPECTED as error:
        print(f"demo: {error}", file=sys.stderr)
    except redis.RedisError as error:
        print(f"demo: Redis cannot be used ({error})", file=sys.stderr)
    except OSError as error:
        print(f"demo: {error}", file=sys.stderr)
    return 1


def _run(output: Path, console: Console) -> int:
    output.mkdir(parents=True, exist_ok=True)
    scenes = all_scenes()
    log = output / "worker.log"
    with (
        _redis(console) as settings,
        Jobs(settings) as jobs,
        WorkerProcess(settings, log) as worker,  # ends before its jobs are taken back
    ):
        try:
            began = time.monotonic()
            with _waiting(console, f"starting the worker, its log is {log}"):
                worker.wait_until_registered()
            started_s = time.monotonic() - began
            console.print(f"the worker (process {worker.pid}) is ready after {started_s:.1f} s")
            if worker.admin_port:
                console.print(f"its status page: http://localhost:{worker.admin_port}/")
            outcomes = _erase(jobs, worker, scenes, console)
            with _waiting(console, "stopping the worker"):
                status = worker.finish()
        except KeyboardInterrupt:
            console.print("stopping: the worker may finish the batch in hand (Ctrl-C: at once)")
            raise
    with _waiting(console, "measuring"):
        results = [_measured(outcome) for outcome in outcomes]
        for result in results:
            write_pictures(output, result)
        sheet = write_sheet(output, results)
        about = {
            "weights": str(settings.lama_checkpoint_path),
            "worker_ready_after_s": round(started_s, 3),
            "worker_exit_status": status,
        }
        numbers = write_results(output, results, about)
    console.print()
    console.print(table(results))
    console.print()
    console.print(LEGEND, style="dim")
    problems = [result.problem for result in results if result.problem]
    if status != 0:
        problems.append(f"the worker ended with exit status {status} instead of 0, see {log}")
    for problem in problems:
        console.print(problem, style="red")
    console.print(f"Erased with {settings.lama_checkpoint_path}.")
    console.print(f"Look at {sheet}; the pictures lie beside it, the numbers in {numbers}.")
    console.print(
        "Next, a picture of yours: ./run worker starts a worker and says how to send one."
    )
    return 1 if problems else 0


def _measured(outcome: Outcome) -> Result:
    if outcome.after is None:
        return Result(outcome, None)
    return Result(outcome, measure(outcome.scene, outcome.after))


@contextlib.contextmanager
def _redis(console: Console) -> Iterator[Settings]:
    """Settings with the Redis to use, and with names of the demo's own."""
    tag = uuid.uuid4().hex[:8]
    settings = load_settings().model_copy(update={"shm_name_prefix": f"img_shm_demo_{tag}_"})
    if "REDIS_URL" not in set_variables():
        with RedisServer() as server:
            console.print(f"a Redis of the demo's own runs at {server.url}")
            yield settings.model_copy(update={"redis_url": server.url})
        return
    # Queues of its own: no other worker takes the demo's jobs, and its worker no real ones.
    queues = {f"lama_inference_{kind}_tasks_queue": f"demo:{tag}:{kind}tasks" for kind in Kind}
    settings = settings.model_copy(update=queues)
    with connected(settings.redis_url) as client:
        client.ping()
    console.print(f"using {without_password(settings.redis_url)} with the queues demo:{tag}:…")
    yield settings


def _erase(
    jobs: Jobs, worker: WorkerProcess, scenes: list[Scene], console: Console
) -> list[Outcome]:
    """Submit all scenes, then collect; the outcomes in the order of the scenes."""
    outcomes: dict[str, Outcome] = {}
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Elapsed(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("erasing text", total=len(scenes))
        for scene in scenes:
            jobs.submit(scene)
        for outcome in jobs.collect(worker.check):
            outcomes[outcome.scene.name] = outcome
            progress.advance(task)
            what = outcome.error or "done"
            progress.console.print(f"  {outcome.scene.name}: {what} after {outcome.seconds:.1f} s")
    return [outcomes[scene.name] for scene in scenes]


@contextlib.contextmanager
def _waiting(console: Console, what: str) -> Iterator[None]:
    """Print what is being waited for; with a spinner on a terminal."""
    if console.is_terminal:
        with console.status(f"{what} …"):
            yield
    else:
        console.print(f"{what} …")
        yield

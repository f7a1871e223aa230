"""`settings`: list the settings, in a table or as the page docs/settings.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, Final

from core.commands.common import add_command, print_json, table
from core.config import Settings, doubts, load_settings
from core.config.environment import DOTENV, set_variables
from core.config.shown import shown
from core.telemetry.logs import printable

#: The groups of the page: its first setting, its heading, and what stands below the heading. A
#: group has all settings up to the first one of the next group, in the order of `Settings`.
GROUPS: Final = (
    (
        "redis_url",
        "Redis and queues",
        "[Redis and security](redis-and-security.md#redis) lists the forms of the URL. "
        "[Several hosts](deployment.md#several-hosts) need `{host}`.",
    ),
    (
        "inpainting_batch_size_long",
        "Batches",
        "A worker claims at most one batch ahead of the one that it computes.",
    ),
    (
        "lama_config_path",
        "Network",
        "[Weights](weights.md) describes checkpoints, half precision, regions and refinement.",
    ),
    (
        "mask_threshold",
        "Holes and pictures",
        "The [contract](contract.md) describes masks and `original_shm_info`.",
    ),
    (
        "shm_name_prefix",
        "Shared memory",
        "[Users](deployment.md#users) explains file modes and uids.",
    ),
    (
        "max_attempts",
        "Failures",
        "[Failures](contract.md#failures) describes attempts and the dead-letter list.",
    ),
    (
        "heartbeat_interval_s",
        "Workers",
        "[Architecture](architecture.md) describes heartbeats, recovery and namespaces; "
        "[Stopping](operations.md#stopping) describes the grace time.",
    ),
    (
        "log_level",
        "Logs and admin port",
        "[Operations](operations.md) describes both.",
    ),
)

_COLUMNS: Final = ("setting", "value", "source", "default", "meaning")

_INTRODUCTION: Final = """\
# Settings

Settings are environment variables. The worker also reads them from a file `.env` in the current
folder; a variable of the environment takes precedence. Booleans are `1` or `0` (`true` and `false`
work too). `~/` at the start of a path is the home folder. White space at the ends of a value is
dropped, and an empty value counts as unset. If a value is wrong, the worker does not start: it
prints one line with the variable's name, its value and the allowed values. It does not
start either if a line of `.env` loses the value of a setting, for example by a quote that is not
closed. Other lines that cannot be read and names that look like misspelt settings are warnings of
the worker, `settings` and `doctor`.

`python worker.py settings` prints the values that apply here, and where each comes from. This page
is its output with `--markdown`; the descriptions are in `core/config/settings.py`.
"""

_OTHERS: Final = """
## Other variables

- `OMP_NUM_THREADS` sets the number of threads on a CPU: see
  [CPU threads](deployment.md#cpu-threads).
- `CUDA_VISIBLE_DEVICES` selects the GPU: see [several GPUs](deployment.md#several-gpus).
- `OTEL_EXPORTER_OTLP_ENDPOINT` and the other variables of OpenTelemetry configure
  [traces](operations.md#logs-and-traces).
- `RAY_AUTH_MODE` and `RAY_AUTH_TOKEN` are for [bulk runs on Ray](bulk.md#several-machines).
- `FAULT_POINT` makes a worker kill itself at a given point: see [Robustness](robustness.md).
"""


def add(commands: Any) -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "settings",
        "list the settings: value, where it comes from, default and meaning",
        "settings\nsettings --json\nsettings --markdown > docs/settings.md",
        command,
    )
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="print the page docs/settings.md, which has the defaults only",
    )


def command(options: argparse.Namespace) -> int:
    """Always 0; a wrong value is an error."""
    if options.markdown:
        print(page(), end="")
        return 0
    rows = list(_rows(load_settings()))
    for doubt in doubts():
        print(f"worker.py: {printable(str(doubt))}", file=sys.stderr)
    if options.json:
        print_json([dict(zip(_COLUMNS, row, strict=True)) for row in rows])
    else:
        print(table(_COLUMNS, rows))
    return 0


def page() -> str:
    """The text of docs/settings.md."""
    headings = {first: (heading, text) for first, heading, text in GROUPS}
    lines = [_INTRODUCTION.rstrip("\n")]
    for name, field in Settings.model_fields.items():
        if name in headings:
            heading, text = headings[name]
            lines += ["", f"## {heading}", "", text, ""]
            lines += ["| variable | default | meaning |", "| --- | --- | --- |"]
        lines.append(f"| `{name.upper()}` | `{_default(name)}` | {field.description} |")
    return "\n".join(lines) + "\n" + _OTHERS


def _rows(settings: Settings) -> Iterator[tuple[str, str, str, str, str]]:
    """A row per setting, without passwords."""
    given = {name.lower() for name in set_variables()}
    for name, field in Settings.model_fields.items():
        source = "default"
        if name in given:
            source = "environment"
        elif name in settings.model_fields_set:
            source = str(DOTENV)
        value = shown(name, getattr(settings, name))
        yield name.upper(), value, source, _default(name), field.description or ""


def _default(name: str) -> str:
    return shown(name, Settings.model_fields[name].default) or "none"

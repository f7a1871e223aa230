"""Rows of figures: a table on the terminal, JSON on disk, Markdown for benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]


class Report:
    """The rows of one benchmark.

    `keys` name the columns that identify a row: a row measured again takes the place of the old
    one in the file. Rows measured on another machine (or with other versions) are dropped.
    """

    def __init__(self, name: str, keys: Sequence[str], path: Path | None = None) -> None:
        self._keys = tuple(keys)
        self._path = path or RESULTS / f"{name}.json"
        self._name = name
        self.rows: list[Row] = []

    def add(self, **row: Any) -> None:
        """Add a row; numbers in full, the table rounds them."""
        self.rows.append({**row, "at": machine.now(), "command": _command()})

    def write(self) -> Path:
        """Merge the rows into the JSON file; its path."""
        about = machine.describe()
        merged = {self._key(row): row for row in [*_rows_on(self._path, about), *self.rows]}
        content = {"benchmark": self._name, "machine": about, "rows": list(merged.values())}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return self._path

    def print(self) -> None:
        """The rows of this run as a table."""
        print(table(self.rows))

    def finish(self) -> None:
        """Print the table, write the file, say where."""
        self.print()
        print(f"\nwritten to {self.write()}", file=sys.stderr)

    def _key(self, row: Row) -> tuple[Any, ...]:
        return tuple(row.get(key) for key in self._keys)


def table(rows: Sequence[Row], hidden: Sequence[str] = ("at", "command")) -> str:
    """The rows as a Markdown table, which is legible on a terminal too; '' without rows."""
    columns = [name for row in rows for name in row if name not in hidden]
    columns = list(dict.fromkeys(columns))
    if not columns:
        return ""
    cells = [columns, *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def add_output_argument(parser: argparse.ArgumentParser, name: str) -> None:
    """The option --json, with the place in benchmarks/results/ as its default."""
    parser.add_argument(
        "--json",
        type=Path,
        default=RESULTS / f"{name}.json",
        help="where the rows go (%(default)s)",
    )


def _rows_on(path: Path, about: dict[str, Any]) -> list[Row]:
    """The rows of an earlier run on this machine."""
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError):
        return []
    same = earlier["machine"] == about
    if not same:
        print(f"{path}: rows of another machine or other versions are dropped", file=sys.stderr)
    return list(earlier["rows"]) if same else []


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return str(value)


def _command() -> str:
    """What was typed; of absolute paths the last part, since results are published."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else sys.argv[:1]
    return shlex.join(["python", *map(_public, [*program, *sys.argv[1:]])])


def _public(argument: str) -> str:
    option, equals, value = argument.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)

"""A hostile case: a good job that mutations spoil, and how it must end."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from chaos.hostile.bystanders import Bystanders
from harness.wire import Json, Kind

#: How a case ends. "either" is where an independent answer would repeat the worker's code.
Fate = Literal["dead", "delivered", "either"]

MAX_PIXELS = 1 << 18
IMAGE, MASK = "preprocessed_img_shm_info", "preprocessed_mask_shm_info"

FORGED = "1999-12-31 23:59:59,999 INFO    core.flow.pipeline: all is well"


@dataclass
class Case:
    """A message and what its segments were made into."""

    number: int
    rng: random.Random
    message: Json
    pixels: dict[str, np.ndarray]
    kind: Kind
    bystanders: Bystanders
    fate: Fate = "delivered"
    payload: bytes = b""
    done: list[str] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)

    def path(self, which: str) -> Path:
        return self.paths[which == MASK]

    def info(self) -> tuple[str, Json]:
        which = self.rng.choice([IMAGE, MASK])
        return which, self.message[which]


Mutation = Callable[[Case], Fate]
MESSAGE: list[Mutation] = []
SEGMENT: list[Mutation] = []
TEXT: list[Mutation] = []


def _adding(mutations: list[Mutation]) -> Callable[[Mutation], Mutation]:
    def add(mutation: Mutation) -> Mutation:
        mutations.append(mutation)
        return mutation

    return add


#: Decorators of the mutations of a message, of a segment and of the text.
of_message, of_segment, of_text = map(_adding, (MESSAGE, SEGMENT, TEXT))


def encoded(case: Case) -> bytes:
    """The message as UTF-8 JSON, with or without escapes."""
    return json.dumps(case.message, ensure_ascii=case.rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )

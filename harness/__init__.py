"""What drives a worker from outside: Redis, processes, wire messages, stub networks, pictures.

The tests, chaos, the benchmarks and the demo build on it; it imports none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

#: The repository.
ROOT: Final = Path(__file__).parent.parent

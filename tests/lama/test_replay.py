"""CUDA graphs as they are asked for, by a stand-in for torch.cuda; what they do needs a GPU."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import torch

from lama.engine.replay import GraphRecorder, Replayed

CPU = torch.device("cpu")
MIB = 1 << 20


class Recorded:
    """What was asked of torch.cuda, in its order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple] = []
        self.free = 100 * MIB
        self.peak = 10 * MIB
        self.fails = False
        default = self._stream("default")
        replaced = {
            "graph_pool_handle": lambda: "pool",
            "Stream": lambda device: self._stream("own"),
            "current_stream": lambda device: default,
            "stream": lambda stream: contextlib.nullcontext(),
            "reset_peak_memory_stats": lambda device: self.asked.append(("reset",)),
            "memory_allocated": lambda device: 0,
            "max_memory_allocated": lambda device: self.peak,
            "synchronize": lambda device: self.asked.append(("synchronize",)),
            "empty_cache": lambda: self.asked.append(("empty cache",)),
            "mem_get_info": lambda device: (self.free, 0),
            "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None),
            "graph": self._graph,
        }
        for name, value in replaced.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def _stream(self, name: str) -> SimpleNamespace:
        self.asked.append(("stream", name))
        return SimpleNamespace(name=name, wait_stream=lambda other: None)

    @contextlib.contextmanager
    def _graph(self, graph, pool, stream, capture_error_mode):
        self.asked.append(("graph", pool, stream.name, capture_error_mode))
        yield
        if self.fails:
            raise RuntimeError("CUDA error: operation failed due to a previous error")


def function(size, given: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (given + 1,)


def sample(size) -> tuple[torch.Tensor, object]:
    return torch.zeros(size, dtype=torch.uint8), None


def replays(record) -> Replayed:
    return Replayed(function, record, sample, CPU)


def test_all_graphs_are_recorded_on_one_stream_and_share_one_pool(monkeypatch) -> None:
    cuda = Recorded(monkeypatch)
    replayed = replays(GraphRecorder())
    assert replayed.prepare((2, 3))
    assert replayed.prepare((1, 3))
    assert [one for one in cuda.asked if one[0] == "graph"] == [
        ("graph", "pool", "own", "thread_local")
    ] * 2
    assert cuda.asked.count(("stream", "own")) == 1


def test_what_the_warm_up_took_goes_back_before_a_graph_takes_it_for_good(monkeypatch) -> None:
    cuda = Recorded(monkeypatch)
    replays(GraphRecorder()).prepare((2, 3))
    names = [one[0] for one in cuda.asked]
    assert names[-4:] == ["reset", "synchronize", "empty cache", "graph"]


def test_where_memory_is_short_nothing_is_recorded_and_smaller_sizes_still_are(
    monkeypatch, caplog
) -> None:
    cuda = Recorded(monkeypatch)
    replayed = replays(GraphRecorder())
    cuda.peak = 60 * MIB
    assert not replayed.prepare((2, 3))
    assert "no CUDA graph for (2, 3): it would take 60 MiB for good" in caplog.text
    cuda.peak = 40 * MIB
    assert replayed.prepare((1, 3))
    # The next one shares what that took.
    cuda.free = 41 * MIB
    assert replayed.prepare((1, 2))


def test_a_recording_that_fails_is_kept_and_does_without(monkeypatch, caplog) -> None:
    cuda = Recorded(monkeypatch)
    recorder = GraphRecorder()
    replayed = replays(recorder)
    cuda.fails = True
    assert not replayed.prepare((2, 3))
    assert "no CUDA graph for (2, 3): CUDA error" in caplog.text
    # torch clears the workspace of others when it drops a graph
    assert len(recorder._graphs) == 1
    given = torch.zeros((2, 3), dtype=torch.uint8)
    assert replayed((2, 3), given)[0].tolist() == [[1] * 3] * 2


def test_an_input_for_which_there_is_no_memory_is_no_more_than_a_missing_graph(
    monkeypatch, caplog
) -> None:
    Recorded(monkeypatch)
    replayed = replays(GraphRecorder())

    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "zeros", fail)
    assert not replayed.prepare((2, 3))
    assert "no CUDA graph for (2, 3): CUDA out of memory" in caplog.text

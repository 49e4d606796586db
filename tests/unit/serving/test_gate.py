from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from redis_consumer.serving.gate import Gate
from redis_consumer.serving.refusal import Refusal, invalid


def test_one_too_many_is_refused_as_by_a_full_queue() -> None:
    gate = Gate(1, 0)
    with gate.enter(), pytest.raises(Refusal, match="max_enqueued_batches is 0") as caught, gate.enter():
        pass
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    with gate.enter():
        pass


def test_so_many_run_and_the_others_wait() -> None:
    gate, running, lock = Gate(2, 6), [0, 0], threading.Lock()
    together = threading.Barrier(2)

    def run(_: int) -> None:
        with gate.enter():
            with lock:
                running[0] += 1
                running[1] = max(running)
            together.wait(timeout=20)
            with lock:
                running[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, range(8)))
    assert running == [0, 2]


def test_a_place_is_free_again_after_an_error() -> None:
    gate = Gate(1, 0)
    for _ in range(3):
        with pytest.raises(KeyError), gate.enter():
            raise KeyError


def test_a_long_text_is_cut() -> None:
    assert invalid("short").details == "short"
    assert invalid("ä" * 1000).details == "ä" * 512 + "...TRUNCATED"

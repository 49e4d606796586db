from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.errors import (
    ConsumerError,
    InvalidModelInput,
    LeaseLost,
    ModelNotFound,
    ModelNotLoaded,
    OutOfMemory,
    PredictionFailed,
    ServerBusy,
    ServerNotReady,
)
from redis_consumer.job import ModelId
from redis_consumer.models.patience import PatientModelServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from redis_consumer.arrays import AnyArray
    from redis_consumer.models.base import ModelServer, TensorSpec
    from redis_consumer.models.stops import Stop

MODEL = ModelId("M")


class Failing:
    """A model server that fails with these errors, one a call, and then works."""

    def __init__(self, *errors: ConsumerError, for_ever: ConsumerError | None = None) -> None:
        self.errors = list(errors)
        self.for_ever = for_ever
        self.calls = 0

    def describe(self, _model: ModelId) -> list[TensorSpec]:
        self._fail()
        return []

    def predict(self, _model: ModelId, _inputs: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        self._fail()
        return {"y": np.zeros(1)}

    def _fail(self) -> None:
        self.calls += 1
        if self.for_ever is not None:
            raise self.for_ever
        if self.errors:
            raise self.errors.pop(0)


def test_a_cold_or_busy_server_is_waited_for() -> None:
    told: list[ConsumerError] = []
    errors = [ServerNotReady("cold"), ServerBusy("full")]
    patient = PatientModelServer(
        Failing(*errors), wait_seconds=60, max_retry=0, on_retry=told.append, max_pause_seconds=0.01
    )
    assert list(patient.predict(MODEL, {})) == ["y"]
    assert told == errors


def test_the_description_is_waited_for_as_well() -> None:
    patient = PatientModelServer(Failing(ServerNotReady("cold")), wait_seconds=60, max_retry=0, max_pause_seconds=0.01)
    assert patient.describe(MODEL) == []


def test_waiting_ends_and_says_what_for() -> None:
    server = Failing(for_ever=ServerBusy("queue full"))
    patient = PatientModelServer(server, wait_seconds=0.2, max_retry=0, max_pause_seconds=0.05)
    with pytest.raises(ServerBusy, match=r"queue full; waited 0\.2 s"):
        patient.predict(MODEL, {})
    assert server.calls > 2


def test_a_broken_prediction_is_retried_so_many_times() -> None:
    for max_retry in (0, 2):
        server = Failing(for_ever=PredictionFailed("deadline"))
        patient = PatientModelServer(server, wait_seconds=0, max_retry=max_retry, max_pause_seconds=0.01)
        with pytest.raises(PredictionFailed, match="deadline"):
            patient.predict(MODEL, {})
        assert server.calls == max_retry + 1


def test_what_is_final_is_raised_at_once() -> None:
    server = Failing(for_ever=InvalidModelInput("rank"))
    with pytest.raises(InvalidModelInput):
        PatientModelServer(server, wait_seconds=60, max_retry=5).predict(MODEL, {})
    assert server.calls == 1


def test_stop_ends_a_pause_at_once() -> None:
    lost: list[LeaseLost] = []
    server = Failing(for_ever=ServerNotReady("cold"))
    patient = PatientModelServer(
        server, wait_seconds=600, max_retry=0, stop=lambda: lost[0] if lost else None, max_pause_seconds=300
    )
    timer = threading.Timer(0.3, lambda: lost.append(LeaseLost("claimed by another")))
    timer.start()
    began = time.monotonic()
    with pytest.raises(LeaseLost, match="claimed by another"):
        patient.predict(MODEL, {})
    timer.join()
    assert time.monotonic() - began < 60  # of 600


class TestModelNotFound:
    def test_is_asked_for_three_times_within_ten_seconds(self) -> None:
        pauses: list[float] = []
        server = Failing(for_ever=ModelNotFound("no such model"))
        patient = waiting(server, pauses)
        with pytest.raises(ModelNotFound, match="no such model"):
            patient.predict(MODEL, {})
        assert (server.calls, sum(pauses)) == (3, 10)

    def test_is_used_when_it_appears_meanwhile(self) -> None:
        server = Failing(ModelNotFound("not yet"), ServerNotReady("being loaded"), ModelNotFound("once more"))
        assert list(waiting(server, []).predict(MODEL, {})) == ["y"]

    def test_is_final_when_it_could_not_be_loaded(self) -> None:
        server = Failing(for_ever=ModelNotLoaded("broken"))
        with pytest.raises(ModelNotLoaded):
            waiting(server, []).predict(MODEL, {})
        assert server.calls == 1


class TestOutOfMemory:
    def test_of_several_entries_goes_back_to_who_can_send_fewer_and_is_told(self) -> None:
        told: list[ConsumerError] = []
        server = Failing(OutOfMemory("OOM"))
        patient = PatientModelServer(server, wait_seconds=60, max_retry=0, on_retry=told.append)
        with pytest.raises(OutOfMemory):
            patient.predict(MODEL, {"x": np.zeros((2, 1))})
        assert (server.calls, [type(error) for error in told]) == (1, [OutOfMemory])

    @pytest.mark.parametrize(("entries", "divides"), [(1, True), (2, False)])
    def test_that_cannot_be_divided_is_waited_for(self, entries: int, *, divides: bool) -> None:
        patient = PatientModelServer(
            Failing(OutOfMemory("OOM")), wait_seconds=60, max_retry=0, divides=divides, max_pause_seconds=0.01
        )
        assert list(patient.predict(MODEL, {"x": np.zeros((entries, 1)), "scalar": np.array(1)})) == ["y"]


def waiting(server: ModelServer, pauses: list[float]) -> PatientModelServer:
    """Return a patient server that notes its pauses, and takes none."""

    def note(seconds: float, _stop: Stop) -> None:
        pauses.append(seconds)

    return PatientModelServer(server, wait_seconds=60, max_retry=0, pause=note)

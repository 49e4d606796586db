"""Model servers that are several, full, late, out of memory or given up: real gRPC, scripted answers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from tests.scripted_serving import Script, metadata, scripted_server, states

from redis_consumer.errors import (
    ConsumerError,
    InvalidModelInput,
    LeaseLost,
    ModelNotFound,
    OutOfMemory,
    ServerNotReady,
)
from redis_consumer.job import ModelId
from redis_consumer.models.batching import BatchLimits, predict_batches
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.slots import SharingModelServer, Slots
from redis_consumer.models.stops import Stops
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import encode_tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_consumer.models.base import ModelServer

Code = grpc.StatusCode
MODEL = ModelId("Nuclei", 3)
WAIT = 60.0
ONE = {"x": np.zeros((1, 2), np.float32)}
FULL = "The batch scheduling queue to which this task was submitted is full"
OOM = "OOM when allocating tensor with shape[64,256,256,1] and type float on /job:localhost/device:GPU:0 by allocator"


def answering(number: float = 0) -> Script:
    """Return a script whose model has the input and the output of shape (N, 2), and answers with `number`."""
    script = Script()
    script.say(messages.GET_MODEL_METADATA, metadata({"serving_default": {"x": (pb.DT_FLOAT, (-1, 2))}}))
    script.say(messages.PREDICT, said(np.full((1, 2), number, np.float32)))
    script.say(messages.GET_MODEL_STATUS, (Code.NOT_FOUND, "Could not find any versions of model Nuclei"))
    return script


def said(array: np.ndarray[tuple[int, int], np.dtype[np.float32]]) -> bytes:
    return messages.write(pb.PredictResponse(), {"y": encode_tensor(array)})


@contextmanager
def connected(address: str, *, seconds: float = 20) -> Iterator[TensorFlowServing]:
    client = TensorFlowServing(address, timeout_seconds=seconds)
    try:
        yield client
    finally:
        client.close()


def patient(server: ModelServer, *, wait_seconds: float = WAIT) -> PatientModelServer:
    return PatientModelServer(server, wait_seconds=wait_seconds, max_retry=3, max_pause_seconds=0.1)


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WAIT
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.02)


class TestSeveralBehindOneAddress:
    @pytest.fixture
    def servers(self) -> Iterator[list[tuple[ExitStack, str]]]:
        """Three servers, each on a stack of its own that ends it."""
        found = []
        with ExitStack() as all_of_them:
            for number in range(3):
                stack = all_of_them.enter_context(ExitStack())
                found.append((stack, stack.enter_context(scripted_server(answering(number)))))
            yield found

    @pytest.fixture
    def client(self, servers: list[tuple[ExitStack, str]]) -> Iterator[ModelServer]:
        addresses = ",".join(address for _, address in servers)
        with connected(f"ipv4:{addresses}") as client:
            yield patient(client)

    def test_take_turns(self, client: ModelServer) -> None:
        until(lambda: len(ask(client, 9)) == 3)  # the first calls go where the connection stands first
        assert set(ask(client, 30).values()) == {10}

    def test_also_when_several_lanes_ask(self, client: ModelServer) -> None:
        until(lambda: len(ask(client, 9)) == 3)
        with ThreadPoolExecutor(6) as pool:
            found = sum(pool.map(lambda _: ask(client, 20), range(6)), Counter[float]())
        assert min(found.values()) > 20

    def test_one_that_dies_is_left_out_and_used_again_when_it_is_back(
        self, client: ModelServer, servers: list[tuple[ExitStack, str]]
    ) -> None:
        until(lambda: len(ask(client, 9)) == 3)
        stack, address = servers[1]
        stack.close()
        until(lambda: set(ask(client, 9)) == {0, 2})
        with scripted_server(answering(7), port=int(address.rpartition(":")[2])):
            until(lambda: set(ask(client, 9)) == {0, 2, 7})

    def test_one_that_refuses_leaves_the_work_to_the_others(self, servers: list[tuple[ExitStack, str]]) -> None:
        full = answering()
        full.say(messages.PREDICT, (Code.UNAVAILABLE, FULL))
        with scripted_server(full) as address, connected(f"ipv4:{address},{servers[0][1]}") as client:
            assert ask(patient(client), 20) == {0: 20}
        assert full.calls(messages.PREDICT) > 0

    def test_a_single_one_is_asked_as_ever(self, servers: list[tuple[ExitStack, str]]) -> None:
        with connected(servers[2][1]) as client:
            assert ask(client, 5) == {2: 5}


def ask(server: ModelServer, times: int) -> Counter[float]:
    """Return how often which server answered."""
    return Counter(float(server.predict(MODEL, ONE)["y"][0, 0]) for _ in range(times))


class Device:
    """What a server of limited memory and places answers."""

    def __init__(self, *, room: int = 1000, places: int = 1000) -> None:
        self.room, self.places = room, places
        self.sizes: list[int] = []
        self.refused = self.running = 0
        self._lock = threading.Lock()

    def __call__(self, request: bytes) -> bytes | tuple[Code, str]:
        size = pb.PredictRequest.FromString(request).inputs["x"].tensor_shape.dim[0].size
        with self._lock:
            self.sizes.append(size)
            if self.running >= self.places:
                self.refused += 1
                return Code.UNAVAILABLE, FULL
            self.running += 1
        time.sleep(0.005)
        with self._lock:
            self.running -= 1
        return (Code.RESOURCE_EXHAUSTED, OOM) if size > self.room else said(np.zeros((size, 2), np.float32))


@contextmanager
def device_served(device: Device) -> Iterator[TensorFlowServing]:
    script = answering()
    script.make(messages.PREDICT, device)
    with scripted_server(script) as address, connected(address) as client:
        yield client


class TestOutOfMemory:
    def test_a_job_goes_on_with_half_the_batch(self) -> None:
        device, told = Device(room=3), list[ConsumerError]()
        with device_served(device) as client:
            server = PatientModelServer(client, wait_seconds=0, max_retry=0, on_retry=told.append)
            found = predict_batches(server, MODEL, np.zeros((10, 2)), batch_size=8, limits=BatchLimits())
        assert found["y"].shape == (10, 2)
        assert max(device.sizes) == 8
        assert {type(error) for error in told} == {OutOfMemory}

    def test_of_one_tile_is_waited_for(self) -> None:
        device = Device(room=0)

        def leave(_error: ConsumerError) -> None:
            device.room = 4

        with device_served(device) as client:
            server = PatientModelServer(client, wait_seconds=WAIT, max_retry=0, on_retry=leave, max_pause_seconds=0.1)
            assert server.predict(MODEL, ONE)["y"].shape == (1, 2)


class TestFullQueue:
    def test_fewer_requests_are_in_flight_and_all_lanes_get_through(self) -> None:
        device, slots = Device(places=2), Slots(16)
        with device_served(device) as client, ThreadPoolExecutor(8) as pool:
            lanes = [patient(SharingModelServer(client, slots)) for _ in range(8)]
            jobs = [pool.submit(predict_batches, lane, MODEL, np.zeros((20, 2)), batch_size=1) for lane in lanes]
            for job in jobs:
                assert job.result(WAIT)["y"].shape == (20, 2)
        assert slots.allowed < 16
        assert 0 < device.refused < len(device.sizes) / 2

    def test_more_again_when_there_is_room(self) -> None:
        device, slots = Device(places=0), Slots(4)

        def make_room(_error: ConsumerError) -> None:
            device.places = 4

        with device_served(device) as client:
            server = SharingModelServer(client, slots)
            lane = PatientModelServer(server, wait_seconds=WAIT, max_retry=0, on_retry=make_room, max_pause_seconds=0.1)
            lane.predict(MODEL, ONE)
            assert slots.allowed < 4
            predict_batches(lane, MODEL, np.zeros((20, 2)), batch_size=1)
        assert slots.allowed == 4


class TestAbsent:
    def test_a_server_that_appears_late_is_found_within_seconds(self) -> None:
        with scripted_server(answering()) as address:
            port = int(address.rpartition(":")[2])
        waits = threading.Semaphore(0)

        def note(_error: ConsumerError) -> None:
            waits.release()

        with connected(address) as client, ThreadPoolExecutor(1) as pool:
            server = PatientModelServer(client, wait_seconds=WAIT, max_retry=0, on_retry=note, max_pause_seconds=3)
            job = pool.submit(server.predict, MODEL, ONE)
            for _ in range(4):  # the pauses have grown by then
                assert waits.acquire(timeout=WAIT)
            with scripted_server(answering(), port=port):
                began = time.monotonic()
                job.result(WAIT)
        assert time.monotonic() - began < 30

    def test_is_waited_for_so_long_and_no_longer(self) -> None:
        with scripted_server(answering()) as address:
            pass
        with connected(address) as client, pytest.raises(ServerNotReady, match=r"waited 0\.5 s"):
            patient(client, wait_seconds=0.5).predict(MODEL, ONE)

    @pytest.mark.parametrize("state", [pb.ModelVersionStatus.START, pb.ModelVersionStatus.LOADING])
    def test_a_model_that_is_being_loaded_is_waited_for(self, state: int) -> None:
        script = answering(5)
        known = script.answers[messages.GET_MODEL_METADATA]
        missing = (Code.NOT_FOUND, "Servable not found for request: Specific(Nuclei, 3)")
        script.say(messages.GET_MODEL_METADATA, *[missing] * 5, *known)
        script.say(messages.GET_MODEL_STATUS, states((3, state, "")))
        with scripted_server(script) as address, connected(address) as client:
            assert patient(client).predict(MODEL, ONE)["y"][0, 0] == 5
        assert script.calls(messages.GET_MODEL_METADATA) == 6

    def test_a_model_of_no_state_is_asked_for_three_times(self) -> None:
        script, pauses = answering(), list[float]()
        script.say(messages.PREDICT, (Code.NOT_FOUND, "Servable not found for request: Specific(Nuclei, 3)"))
        with scripted_server(script) as address, connected(address) as client:
            server = PatientModelServer(client, wait_seconds=WAIT, max_retry=3, pause=lambda s, _: pauses.append(s))
            with pytest.raises(ModelNotFound, match="Specific"):
                server.predict(MODEL, ONE)
        assert (script.calls(messages.PREDICT), sum(pauses)) == (3, 10)

    def test_a_refused_input_fails_at_once_with_the_sentence_of_the_server(self) -> None:
        script = answering()
        script.say(messages.PREDICT, (Code.INVALID_ARGUMENT, "Matrix size-incompatible: In[0]: [1,3], In[1]: [4,2]"))
        with (
            scripted_server(script) as address,
            connected(address) as client,
            pytest.raises(InvalidModelInput, match=r"In\[0\]: \[1,3\], In\[1\]: \[4,2\]"),
        ):
            patient(client).predict(MODEL, ONE)
        assert script.calls(messages.PREDICT) == 1


class TestStops:
    @pytest.fixture
    def script(self) -> Script:
        return answering()

    @pytest.fixture
    def client(self, script: Script) -> Iterator[TensorFlowServing]:
        with scripted_server(script) as address, connected(address) as client:
            yield client
            script.let_go()

    def test_a_lost_lease_ends_a_call_in_flight_and_a_drain_does_not(
        self, script: Script, client: TensorFlowServing
    ) -> None:
        stopping, lost, sent = threading.Event(), threading.Event(), threading.Event()
        script.hold(messages.PREDICT, then=sent.set)
        stops = Stops(
            drop=lambda: LeaseLost("claimed by another") if lost.is_set() else None,
            drain=lambda: ServerNotReady("the worker stops") if stopping.is_set() else None,
        )
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(lane(client, Slots(1), stops).predict, MODEL, ONE)
            assert sent.wait(WAIT)
            stopping.set()
            with pytest.raises(TimeoutError):
                job.result(0.5)
            lost.set()
            with pytest.raises(LeaseLost, match="claimed by another"):
                job.result(WAIT)

    def test_either_ends_the_wait_for_a_slot(self, client: TensorFlowServing) -> None:
        slots = Slots(1)
        with slots.slot():
            with pytest.raises(LeaseLost):
                lane(client, slots, Stops(drop=lambda: LeaseLost("another"))).predict(MODEL, ONE)
            with pytest.raises(ServerNotReady, match="stops"):
                lane(client, slots, Stops(drain=lambda: ServerNotReady("the worker stops"))).predict(MODEL, ONE)

    def test_either_ends_a_pause(self, script: Script, client: TensorFlowServing) -> None:
        script.say(messages.PREDICT, (Code.UNAVAILABLE, FULL))
        with pytest.raises(LeaseLost):
            lane(client, Slots(1), Stops(drop=refused(script, LeaseLost("another")))).predict(MODEL, ONE)
        with pytest.raises(ServerNotReady, match="stops"):
            lane(client, Slots(1), Stops(drain=refused(script, ServerNotReady("stops")))).predict(MODEL, ONE)

    def test_nothing_is_sent_for_a_job_that_is_no_longer_ours(self, script: Script, client: TensorFlowServing) -> None:
        client.describe(MODEL)
        with pytest.raises(LeaseLost):
            lane(client, Slots(1), Stops(drop=lambda: LeaseLost("another"))).predict(MODEL, ONE)
        assert script.calls(messages.PREDICT) == 0

    def test_a_job_that_the_drain_leaves_time_for_may_go_on(self, client: TensorFlowServing) -> None:
        draining = lane(client, Slots(1), Stops(drain=lambda: ServerNotReady("the worker stops")))
        assert draining.predict(MODEL, ONE)["y"].shape == (1, 2)

    def test_both_batches_in_flight_end(self, script: Script, client: TensorFlowServing) -> None:
        lost, sent = threading.Event(), threading.Semaphore(0)
        script.hold(messages.PREDICT, then=sent.release)
        stops = Stops(drop=lambda: LeaseLost("another") if lost.is_set() else None)
        with ThreadPoolExecutor(1) as pool:
            server = lane(client, Slots(2), stops)
            job = pool.submit(predict_batches, server, MODEL, np.zeros((9, 2)), batch_size=1)
            assert sent.acquire(timeout=WAIT)
            assert sent.acquire(timeout=WAIT)
            lost.set()
            with pytest.raises(LeaseLost):
                job.result(WAIT)
        assert script.calls(messages.PREDICT) == 2


def refused(script: Script, error: ConsumerError) -> Callable[[], ConsumerError | None]:
    """Return what stops once a prediction was asked for."""
    return lambda: error if script.calls(messages.PREDICT) else None


def lane(client: TensorFlowServing, slots: Slots, stops: Stops) -> PatientModelServer:
    """Return the model server as a worker's lane has it."""
    shared = SharingModelServer(client.stopped_by(stops.drop), slots, stop=stops.waiting)
    return PatientModelServer(shared, wait_seconds=WAIT, max_retry=0, stop=stops.waiting)

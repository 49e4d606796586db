"""A model server that dies, comes back, hangs or is late, and a client that waits for it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.onnx_models import save_identity

from redis_consumer.errors import ConsumerError, PredictionFailed, ServerNotReady
from redis_consumer.job import ModelId
from redis_consumer.models.batching import predict_batches
from redis_consumer.models.patience import PatientModelServer
from redis_consumer.models.tf_serving import TensorFlowServing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis_consumer.models.stops import Stop

SAME = ModelId("Same")
TILES = np.arange(40, dtype=np.float32).reshape(20, 2)
SCRIPT = """
import sys
from pathlib import Path
from redis_consumer.serving.server import serve_models
serve_models(Path(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), max_batch_size=None, max_in_flight=2,
             threads=1, announce=lambda text: print(text, flush=True))
"""


@contextmanager
def serving(folder: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == f"listening on 127.0.0.1:{port}\n"
            yield process
        finally:
            process.kill()


def stand_still(server: subprocess.Popen[str]) -> None:
    """Stop a process, and return when it has stopped: one that is busy answers for a moment more."""
    server.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, server.pid, os.WSTOPPED)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def other_port() -> int:
    return free_port()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        number: int = found.getsockname()[1]
        return number


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_identity(tmp_path, "Same")
    return tmp_path


def test_a_job_goes_on_when_a_killed_server_is_back(folder: Path, port: int) -> None:
    waited = threading.Event()
    seen: list[ConsumerError] = []

    def note(error: ConsumerError) -> None:
        seen.append(error)
        waited.set()

    client = TensorFlowServing(f"127.0.0.1:{port}", timeout_seconds=20)
    patient = PatientModelServer(client, wait_seconds=60, max_retry=0, on_retry=note, max_pause_seconds=0.2)
    with serving(folder, port) as first:
        patient.predict(SAME, {"x": TILES})
        first.kill()
        first.wait(timeout=30)
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(predict_batches(patient, SAME, TILES, batch_size=3)["y"]))
    thread.start()
    assert waited.wait(60)
    with serving(folder, port):
        thread.join(timeout=60)
        assert not thread.is_alive()
    np.testing.assert_array_equal(found[0], TILES)
    assert {type(error) for error in seen} == {ServerNotReady}
    client.close()


def test_a_server_that_hangs_is_a_failed_prediction_and_no_longer_asked_on_that_connection(
    folder: Path, port: int
) -> None:
    client = TensorFlowServing(f"127.0.0.1:{port}", timeout_seconds=1)
    with serving(folder, port) as server:
        client.predict(SAME, {"x": TILES})
        stand_still(server)
        with pytest.raises(PredictionFailed, match="Deadline"):
            client.predict(SAME, {"x": TILES})
        server.send_signal(signal.SIGCONT)
        patient = PatientModelServer(client, wait_seconds=60, max_retry=20, max_pause_seconds=0.2)
        np.testing.assert_array_equal(patient.predict(SAME, {"x": TILES})["y"], TILES)
    client.close()


def test_one_of_two_that_hangs_costs_a_try_and_no_more(folder: Path, port: int, other_port: int) -> None:
    seen: list[ConsumerError] = []
    client = TensorFlowServing(f"ipv4:127.0.0.1:{port},127.0.0.1:{other_port}", timeout_seconds=1)
    patient = PatientModelServer(client, wait_seconds=60, max_retry=3, on_retry=seen.append, max_pause_seconds=0.2)
    with serving(folder, port) as server, serving(folder, other_port):
        for _ in range(4):
            patient.predict(SAME, {"x": TILES})
        seen.clear()
        stand_still(server)
        for _ in range(20):
            np.testing.assert_array_equal(patient.predict(SAME, {"x": TILES})["y"], TILES)
        assert len(seen) <= 2
        server.send_signal(signal.SIGCONT)
    client.close()


def test_a_model_that_arrives_late_is_found(folder: Path, port: int, tmp_path: Path) -> None:
    def place(_seconds: float, _stop: Stop) -> None:
        save_identity(tmp_path, "Late")
        threading.Event().wait(1.5)  # the server looks once a second

    client = TensorFlowServing(f"127.0.0.1:{port}", timeout_seconds=20)
    patient = PatientModelServer(client, wait_seconds=60, max_retry=0, pause=place)
    with serving(folder, port):
        np.testing.assert_array_equal(patient.predict(ModelId("Late"), {"x": TILES})["y"], TILES)
    client.close()

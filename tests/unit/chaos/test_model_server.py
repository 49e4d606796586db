"""The model server of chaos, through the program's own client: its moods mean what they are meant to mean."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.acceptance.bench import ROOT, Programs
from tests.chaos.model_server import MODEL
from tests.chaos.models import Models

from redis_consumer.errors import ServerBusy, ServerNotReady
from redis_consumer.job import ModelId
from redis_consumer.models.tf_serving import TensorFlowServing
from redis_consumer.testing.servers import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASK = """
import datetime, time
import numpy as np
from redis_consumer.job import ModelId
from redis_consumer.models.tf_serving import TensorFlowServing
server = TensorFlowServing("{address}")
server.predict(ModelId.parse("{model}"), {{"image": np.zeros((1, 8, 8, 1), np.float32)}})
server.close()
print(time.time(), datetime.datetime.now(datetime.UTC).timestamp())
"""
ECHO = ModelId.parse(MODEL)
BATCH = np.arange(2 * 8 * 8, dtype=np.float32).reshape(2, 8, 8, 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Models]:
    with Programs(tmp_path_factory.mktemp("models") / "run") as programs:
        yield Models(programs)


@pytest.fixture
def client(models: Models) -> Iterator[TensorFlowServing]:
    found = TensorFlowServing(f"{HOST}:{models.port}", describe_seconds=0)
    yield found
    found.close()


def test_it_gives_back_what_it_gets(models: Models, client: TensorFlowServing) -> None:
    models.be("ok")
    assert np.array_equal(client.predict(ECHO, {"image": BATCH})["prediction"], BATCH)


@pytest.mark.parametrize(
    ("mood", "error"),
    [("cold", ServerNotReady), ("full", ServerBusy), ("exhausted", ServerBusy), ("oom 1", ServerBusy)],
)
def test_each_mood_is_understood(models: Models, client: TensorFlowServing, mood: str, error: type[Exception]) -> None:
    models.be(mood)
    with pytest.raises(error):
        client.predict(ECHO, {"image": BATCH})


def test_a_worker_with_a_wrong_clock_can_ask_it(models: Models, tmp_path: Path) -> None:
    models.be("ok")
    script = tmp_path / "ask.py"
    script.write_text(ASK.format(address=f"{HOST}:{models.port}", model=MODEL))
    command = [sys.executable, "-m", "tests.chaos.skewed", "-7200", str(script)]
    asked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert asked.returncode == 0, asked.stderr
    by_time, by_date = map(float, asked.stdout.split())
    assert abs(time.time() - 7200 - by_time) < 60
    assert abs(by_date - by_time) < 1


def test_a_small_batch_fits_the_memory(models: Models, client: TensorFlowServing) -> None:
    models.be("oom 1")
    assert np.array_equal(client.predict(ECHO, {"image": BATCH[:1]})["prediction"], BATCH[:1])

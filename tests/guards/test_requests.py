"""What a job asks of others, counted: Redis commands, calls of the model server, requests to the bucket."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.guards.stage import TILE, Stage, meaning, stage, tiff, written

from redis_consumer import worker
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MOST_COMMANDS = 10
IDLE_PER_SECOND = 0.1
"""Commands of an idle lane, at most."""
MOST_LOOKS, MOST_OF_FOUR = 6, 0.28
"""Requests for one plane of a file of four, and the share of it that travels."""
UNIT = 128
"""Side of the tiles that TF_MAX_BATCH_SIZE counts."""
STRIDE = 0.75


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A worker that has done its first job: scripts are loaded, connections open, signatures known."""
    with stage(tmp_path_factory.mktemp("redis")) as servers, servers.worker():
        servers.cost(tiff(TILE), channels="0,0,0")
        yield servers


@pytest.mark.parametrize("side", [TILE, 1024])
@pytest.mark.parametrize("roles", ["", "0,0,0"])
def test_redis_commands_of_a_job(running: Stage, side: int, roles: str) -> None:
    """Its claim, a word for each stage, its end, and the look for the next job."""
    words = ["pre-processing", *["predicting"] * (roles.count(",") + 1), "saving-results"]
    allowed = {"claim": 1, "update": len(words), "settle": 1, "register": 1, "blmove": 1}
    found = running.cost(tiff(side), channels=roles).commands
    assert found == allowed, (
        f"a segmentation job of {side} x {side} pixels with the roles {roles!r} sent the Redis commands {dict(found)}: "
        f"allowed are {allowed}.  Write fields with a stage that is written anyway (Work.note), and read them from "
        "the job as it was claimed"
    )
    assert found.total() <= MOST_COMMANDS, f"a job sent {found.total()} Redis commands: allowed are {MOST_COMMANDS}"


def test_redis_commands_of_an_idle_lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted by turns, of which there are many a second here: how long one takes in earnest is a constant."""
    seconds, turns = worker.CLAIM_SECONDS, 5
    monkeypatch.setattr(worker, "CLAIM_SECONDS", 0.2)
    with stage(tmp_path) as servers, servers.worker():
        servers.idle(2)  # opens the connections
        found = Counter(map(meaning, servers.idle(turns)))
    assert found == {"register": turns, "blmove": turns}, (
        f"in {turns} turns an idle lane sent the Redis commands {dict(found)}: allowed are register and BLMOVE once a "
        "turn.  Nothing is polled: BLMOVE waits in Redis, and the lane's own script says what is due"
    )
    assert found.total() / turns / seconds <= IDLE_PER_SECOND, (
        f"an idle lane sends {found.total() / turns:g} commands in {seconds:g} s: "
        f"allowed are {IDLE_PER_SECOND:g} a second; lengthen CLAIM_SECONDS"
    )


def test_an_idle_lane_waits_in_redis_as_long_as_it_may(running: Stage) -> None:
    running.cost(tiff(TILE))
    (waiting,) = [command for command in running.said() if meaning(command) == "blmove"]
    asked = float(waiting.words[-1])
    assert worker.CLAIM_SECONDS - 1 < asked <= worker.CLAIM_SECONDS, (
        f"BLMOVE waits for {asked:g} s: expected are the {worker.CLAIM_SECONDS:g} s of CLAIM_SECONDS, less is polling"
    )


@pytest.mark.parametrize(
    ("side", "frames", "roles"), [(TILE, 1, ""), (TILE, 3, ""), (TILE, 1, "0,0,0"), (1024, 1, ""), (2048, 1, "")]
)
def test_calls_of_the_model_server(running: Stage, side: int, frames: int, roles: str) -> None:
    tiles, batch = frames * tiles_along(side) ** 2, batch_size(Settings().tf_max_batch_size)
    allowed = math.ceil(tiles / batch) * (roles.count(",") + 1)
    found = running.cost(tiff(side, frames), channels=roles, dimension_order="BCYX").calls
    assert found == {"Predict": allowed}, (
        f"{frames} x {side} x {side} pixels for the roles {roles!r} made the calls {dict(found)}: allowed are "
        f"{allowed} Predict, the tiles ({tiles}) in batches of {batch}, and no question about a model that is known"
    )


@pytest.mark.parametrize("most", [16, 48])
def test_calls_of_the_model_server_with_small_batches(tmp_path: Path, most: int) -> None:
    tiles, batch = tiles_along(1024) ** 2, batch_size(most)
    with stage(tmp_path) as servers, servers.worker(TF_MAX_BATCH_SIZE=str(most)):
        first, second = (servers.cost(tiff(1024)).calls for _ in range(2))
    allowed = math.ceil(tiles / batch)
    assert first == {"GetModelMetadata": 1, "Predict": allowed}, (
        f"the first job made the calls {dict(first)}: allowed are one question about the model and {allowed} Predict"
    )
    assert second == {"Predict": allowed}, (
        f"the second job made the calls {dict(second)}: allowed are {allowed} Predict; METADATA_EXPIRE_TIME says how "
        "long what is known of a model is kept"
    )


def tiles_along(side: int) -> int:
    """Return how many tiles, three quarters of a tile apart, cover a side."""
    return max(math.ceil((side - TILE) / (STRIDE * TILE)) + 1, 1)


def batch_size(most: int) -> int:
    """Return how many tiles go into one request: TF_MAX_BATCH_SIZE counts tiles of 128 x 128 pixels."""
    return max(most * UNIT**2 // TILE**2, 1)


def test_requests_to_the_bucket(running: Stage) -> None:
    found = [request.verb for request in running.cost(tiff(TILE)).requests]
    assert found == ["GET", "PUT"], (
        f"a job of 512 x 512 pixels made the requests {found}: allowed are one GET of the image and one PUT of the zip"
    )


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_requests_to_the_bucket_for_one_channel_of_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: str | None
) -> None:
    """A large file is read by ranges: its header, and the plane that the job needs, by its tiles."""
    monkeypatch.setattr("redis_consumer.consumers.work.LARGE_BYTES", 2**20)
    monkeypatch.setattr("redis_consumer.storage.object_store.START_BYTES", 2**15)
    noise = np.random.default_rng(5).integers(1, 2**12, (1, 4, 1024, 1024), np.uint16)
    content = written(noise, compression=compression, tile=(256, 256))
    with stage(tmp_path) as servers, servers.worker(MAX_IMAGE_HEIGHT="512", MAX_IMAGE_WIDTH="512"):
        fields = {"channels": "2", "dimension_order": "BCYX", "preprocess_function": "none"}  # one bright plain
        *gets, put = servers.cost(content, **fields).requests
    assert {request.verb for request in gets} == {"GET"}
    assert put.verb == "PUT"
    assert len(gets) <= MOST_LOOKS, (
        f"one channel of four was read by {len(gets)} requests of {[get.size for get in gets]} bytes: "
        f"allowed are {MOST_LOOKS}, for the header and one plane"
    )
    share = sum(get.size for get in gets) / len(content)
    assert share <= MOST_OF_FOUR, (
        f"for one channel of four {share:.2f} of the file travelled: allowed are {MOST_OF_FOUR:.2f}, "
        "a plane and the header"
    )

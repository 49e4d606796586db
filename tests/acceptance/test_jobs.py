"""Jobs as the Kiosk's frontend pushes them, through separate processes, to the archive that its readers open."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest
from tests.acceptance.bench import DEMO_MODEL, discs, exit_code, objects, text_of, wait_for, wait_until

from redis_consumer.demo.score import score
from redis_consumer.demo.simulation.microscope import Microscope
from redis_consumer.demo.simulation.nuclei import Cells, simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.bench import Bench

    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

IMAGE, DISCS = discs(220, 200)
SPOKEN = ["new", "started", "pre-processing", "predicting"]
LIST_COMMANDS = {"lpush", "rpush", "lrem", "lpos", "lrange", "llen", "blmove", "lmove", "type"}


class Lane(NamedTuple):
    """A queue and who serves it."""

    queue: str
    local: bool
    host: str
    entry: str
    statuses: list[str]


IMAGES = Lane("image", False, "image-7f4b", "{}_feature_0.tif", [*SPOKEN, "post-processing", "saving-results", "done"])
PREDICT = IMAGES._replace(queue="predict", local=True, host="predict-0a2e")
SEGMENTATION = Lane(
    "segmentation", False, "segmentation-9c1d", "{}_batch_0_feature_0.tif", [*SPOKEN, "saving-results", "done"]
)


@pytest.fixture(scope="module", autouse=True)
def lists(bench: Bench, image_worker: Child, segmentation_worker: Child, folder_worker: Child) -> Iterator[None]:
    """The workers; and a look at what the janitor, the autoscaler and the exporter look at."""
    yield
    for worker in (image_worker, segmentation_worker, folder_worker):
        assert worker.process.poll() is None
        assert "Traceback" not in text_of(worker)
    queues = [lane.queue for lane in (IMAGES, PREDICT, SEGMENTATION)]
    ours = tuple(f"processing-{queue}:" for queue in queues)
    wait_until(lambda: not any(name.startswith(ours) for name in bench.processing_lists()), "empty processing lists")
    assert [bench.redis.llen(queue) for queue in queues] == [0, 0, 0]
    touched = {c.words[:2] for c in bench.heard() if len(c.words) > 1 and c.words[1].startswith("processing-")}
    assert touched
    assert {name for name, _ in touched} <= LIST_COMMANDS


@pytest.mark.parametrize("lane", [IMAGES, SEGMENTATION, PREDICT], ids=lambda lane: lane.queue)
def test_a_job_goes_through_every_status_to_a_whole_result(bench: Bench, lane: Lane) -> None:
    key = bench.push(lane.queue, bench.upload(IMAGE, "cells.tif", local=lane.local), original_name="cells.tif")
    fields = bench.done(key)
    assert bench.statuses(key) == lane.statuses

    results = bench.results(fields)
    assert list(results) == [lane.entry.format("cells")]
    (labels,) = results.values()
    assert labels.shape == IMAGE.shape
    assert objects(labels) == DISCS

    last = list(bench.writes(key))[-1]
    assert {"status", "output_url", "output_file_name", "finished_at", "total_time", "total_jobs"} <= last.keys()
    assert fields["identity_started"] == fields["updated_by"] == lane.host
    assert fields["identity_upload"] == "frontend-5d8"
    assert fields["total_jobs"] == "1"
    assert fields["progress"] == "100"
    assert fields["predict_retries"] == "0"
    spent = {name: float(fields[name]) for name in fields if name.endswith("_time")}
    stages = {"download_time", "preprocess_time", "prediction_time", "postprocess_time", "upload_time"}
    assert spent.keys() == stages | {"total_time"}
    assert all(seconds >= 0 for seconds in spent.values())
    assert sum(spent[name] for name in stages) == pytest.approx(spent["total_time"], abs=1)
    assert "reason" not in fields


@pytest.mark.parametrize("lane", [IMAGES, SEGMENTATION], ids=lambda lane: lane.queue)
def test_every_time_stamp_is_iso_8601_with_an_offset(bench: Bench, lane: Lane) -> None:
    key = bench.push(lane.queue, bench.upload(IMAGE))
    bench.done(key)
    stamps = [
        dt.datetime.fromisoformat(fields[name])
        for fields in bench.writes(key)
        for name in ("created_at", "updated_at", "finished_at")
        if name in fields
    ]
    assert len(stamps) > len(lane.statuses)
    assert {stamp.utcoffset() for stamp in stamps} == {dt.timedelta(0)}


def test_a_job_is_moved_and_started_in_one_go_and_removed_when_it_is_final(bench: Bench) -> None:
    key = bench.push("image", bench.upload(IMAGE))
    bench.done(key)
    heard = [command.words for command in bench.heard()]
    since = heard[heard.index(("lpush", "image", key)) :]
    first = next(words for words in since if words[:2] == ("hset", key))
    assert dict(zip(first[2::2], first[3::2], strict=True))["status"] == "started"
    moves = [words for words in heard if words[:2] == ("blmove", "image")]
    assert {words[3:5] for words in moves} == {("RIGHT", "LEFT")}
    assert all(words[2].startswith("processing-image:") for words in moves)
    assert {words[2].rpartition(":")[2] for words in moves} == {IMAGES.host}
    final = max(i for i, words in enumerate(since) if words[:2] == ("hset", key))
    (removed,) = (i for i, words in enumerate(since) if words[0] == "lrem" and words[-1] == key)
    assert final < removed, "or a crash in between would lose the job"


# What a job may ask for.


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, DISCS),
        ({"model_name": "NuclearSegmentation", "model_version": "1"}, DISCS),
        ({"model_name": "NuclearSegmentation", "model_version": "7"}, 0),
        ({"model_name": "NuclearSegmentation"}, 0),  # the latest
        ({"model_name": "FixedSize", "model_version": "1"}, DISCS),
    ],
)
@pytest.mark.parametrize("queue", ["image", "segmentation"])
def test_the_model_is_the_jobs_or_the_default(bench: Bench, queue: str, fields: dict[str, str], found: int) -> None:
    done = bench.done(bench.push(queue, bench.upload(IMAGE), **fields))
    (labels,) = bench.results(done).values()
    assert objects(labels) == found


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": "0.5"},
        {"scale": "1.37"},
        {"cuts": "2"},
        {"cuts": "3", "field_size": "31"},
        {"preprocess_function": "normalize"},
        {"preprocess_function": "histogram_normalization,normalize"},
        {"channels": "0,"},
        {"dimension_order": "XY"},
        {"label": "0"},
    ],
    ids=str,
)
def test_the_result_has_the_size_of_the_image(bench: Bench, fields: dict[str, str]) -> None:
    done = bench.done(bench.push("image", bench.upload(IMAGE), **fields))
    (labels,) = bench.results(done).values()
    assert labels.shape == IMAGE.shape
    assert objects(labels) == DISCS


def test_none_leaves_the_image_and_the_prediction_as_they_are(bench: Bench) -> None:
    flat = np.full((40, 30), 5, np.float32)
    done = bench.done(bench.push("image", bench.upload(flat), preprocess_function="none", postprocess_function="none"))
    maps = bench.results(done)
    assert list(maps) == ["image_feature_0.tif", "image_feature_1.tif"]
    for head in maps.values():
        assert head.shape == flat.shape
        assert head.ravel().tolist() == pytest.approx([4.7] * flat.size, rel=1e-5)


def test_an_image_larger_than_a_tile_is_whole_again(bench: Bench) -> None:
    image, number = discs(1500, 1300)
    fields = bench.done(bench.push("image", bench.upload(image)))
    (labels,) = bench.results(fields).values()
    assert labels.shape == image.shape
    assert objects(labels) == number


# Batches, frames and roles.


def test_batches_have_a_file_each_in_order(bench: Bench) -> None:
    images, numbers = zip(*(discs(120, 200, step=step) for step in (40, 50, 60)), strict=True)
    key = bench.upload(np.stack(images))
    fields = bench.done(bench.push("segmentation", key, dimension_order="BXY", channels="0,", original_name="b.tif"))
    results = bench.results(fields)
    assert list(results) == [f"b_batch_{batch}_feature_0.tif" for batch in range(3)]
    assert [objects(labels) for labels in results.values()] == list(numbers)


def test_batches_may_stand_last(bench: Bench) -> None:
    images, numbers = zip(*(discs(120, 200, step=step) for step in (40, 60)), strict=True)
    fields = bench.done(bench.push("segmentation", bench.upload(np.stack(images, -1)), dimension_order="XYB"))
    results = list(bench.results(fields).values())
    assert [labels.shape for labels in results] == [(120, 200)] * 2
    assert [objects(labels) for labels in results] == list(numbers)


def test_frames_are_one_stack_on_the_image_queue(bench: Bench) -> None:
    images, numbers = zip(*(discs(120, 200, step=step) for step in (40, 50, 60)), strict=True)
    fields = bench.done(bench.push("image", bench.upload(np.stack(images)), dimension_order="BXY"))
    (labels,) = bench.results(fields).values()
    assert labels.shape == (3, 120, 200)
    assert [objects(frame) for frame in labels] == list(numbers)


def test_each_role_is_a_feature_by_a_model_of_its_own(bench: Bench) -> None:
    nuclei, few = discs(120, 200, step=60)
    cells, many = discs(120, 200, step=40)
    key = bench.push("segmentation", bench.upload(np.stack([cells, nuclei])), dimension_order="CXY", channels="1,0")
    results = bench.results(bench.done(key))
    assert list(results) == ["image_batch_0_feature_0.tif", "image_batch_0_feature_1.tif"]
    assert [objects(labels) for labels in results.values()] == [few, many]
    assert bench.statuses(key) == [*SPOKEN, "predicting", "saving-results", "done"]


def test_a_role_may_be_left_out(bench: Bench) -> None:
    cells, many = discs(120, 200, step=40)
    blank = np.zeros_like(cells)
    key = bench.push("segmentation", bench.upload(np.stack([blank, cells])), dimension_order="CXY", channels=",1")
    results = bench.results(bench.done(key))
    assert list(results) == ["image_batch_0_feature_0.tif"]
    assert [objects(labels) for labels in results.values()] == [many]


BLIND = "NuclearSegmentation:7"
"""A model that sees nothing, so that a result tells who made it."""


@pytest.mark.parametrize(
    ("queue", "models", "seen"),
    [
        ("phases", {"PHASE_MODEL": "Membranes:3"}, [True, True, True]),
        ("blind-phases", {"PHASE_MODEL": BLIND}, [True, True, False]),
        ("phases-alone", {"PHASE_MODEL": "Membranes:3", "NUCLEAR_MODEL": BLIND, "CYTOPLASM_MODEL": BLIND},
         [False, False, True]),
    ],
)  # fmt: skip
def test_three_roles_have_three_models(bench: Bench, queue: str, models: dict[str, str], seen: list[bool]) -> None:
    worker = bench.worker(f"{queue}-1", QUEUE=queue, CONSUMER_TYPE="segmentation", **models)
    images, numbers = zip(*(discs(120, 200, step=step) for step in (40, 50, 60)), strict=True)
    key = bench.push(queue, bench.upload(np.stack(images)), dimension_order="CXY", channels="2,0,1")
    results = bench.results(bench.done(key))
    assert list(results) == [f"image_batch_0_feature_{role}.tif" for role in range(3)]
    expected = [numbers[channel] if found else 0 for channel, found in zip((2, 0, 1), seen, strict=True)]
    assert [objects(labels) for labels in results.values()] == expected
    end(worker)


@pytest.fixture(scope="module")
def orders_worker(bench: Bench) -> Iterator[Child]:
    yield (worker := bench.worker("orders-1", QUEUE="orders", CONSUMER_TYPE="segmentation"))
    end(worker)


def end(worker: Child) -> None:
    assert "Traceback" not in text_of(worker)
    worker.process.kill()
    exit_code(worker)


@pytest.mark.parametrize("order", ["XYC", "BXYC", "CXYB", "BCXY", "XYBC", "YXC"])
def test_axes_stand_in_every_order(bench: Bench, orders_worker: Child, order: str) -> None:
    """Of batches and channels that all differ, each is found where it belongs, and no side is another."""
    assert orders_worker.process.poll() is None
    batches = 2 if "B" in order else 1
    steps = np.array([[40, 50], [60, 70]])[:batches]
    images, numbers = zip(*(discs(120, 200, step=step) for step in steps.flat), strict=True)
    stack = np.stack(images).reshape(*steps.shape, 120, 200)  # (B, C, Y, X)
    rows, columns = sorted("XY", key=order.index)
    named = order if "B" in order else f"B{order}"
    stored = stack.transpose([["B", "C", rows, columns].index(letter) for letter in named])
    key = bench.upload(stored if "B" in order else stored[0])
    results = bench.results(bench.done(bench.push("orders", key, dimension_order=order, channels="1,0")))
    assert list(results) == [f"image_batch_{b}_feature_{c}.tif" for b in range(batches) for c in range(2)]
    assert {labels.shape for labels in results.values()} == {(120, 200)}
    found = np.reshape([objects(labels) for labels in results.values()], steps.shape)
    np.testing.assert_array_equal(found, np.reshape(numbers, steps.shape)[:, ::-1])


def test_a_stack_of_a_bare_array_is_no_batch_of_columns_by_the_form_s_default(
    bench: Bench, orders_worker: Child
) -> None:
    assert orders_worker.process.poll() is None
    images, numbers = zip(*(discs(120, 200, step=step) for step in (40, 50, 60)), strict=True)
    results = bench.results(bench.done(bench.push("orders", bench.upload(np.stack(images)), dimension_order="XYB")))
    assert list(results) == [f"image_batch_{batch}_feature_0.tif" for batch in range(3)]
    assert [objects(labels) for labels in results.values()] == list(numbers)


@pytest.mark.skipif(not DEMO_MODEL.exists(), reason="the model of the demo is not there")
def test_the_model_that_we_ship_finds_simulated_nuclei(bench: Bench) -> None:
    cells = Cells(count=12, diameter=26, clustering=0.1, debris=0, defocused=0)
    field = simulate((256, 256), cells=cells, microscope=Microscope(), seed=7)
    done = bench.done(bench.push("segmentation", bench.upload(field.image), model_name="Demo", model_version="1"))
    (labels,) = bench.results(done).values()
    assert score(labels.astype(np.int64), field.labels).f1 > 0.8


def test_many_jobs_at_once_are_each_done_once(bench: Bench, segmentation_worker: Child) -> None:
    image = bench.upload(IMAGE[:60, :60])
    keys = [bench.push("segmentation", image, preprocess_function="normalize") for _ in range(12)]
    assert [bench.wait(key)["status"] for key in keys] == ["done"] * len(keys)
    assert [bench.statuses(key) for key in keys] == [SEGMENTATION.statuses] * len(keys)
    wait_for(segmentation_worker, f"Job {keys[-1]} is done")
    finished = [text_of(segmentation_worker).index(f"Job {key} is done") for key in keys]
    assert finished == sorted(finished), "first in, first out"

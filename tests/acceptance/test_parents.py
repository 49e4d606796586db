"""Movies, and spots in cells: jobs that wait for others, through separate processes, whoever dies meanwhile.

Jobs are written as the frontend writes them, and as kiosk-client and the ImageJ plugin do: with every choice blank.
"""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from tests.acceptance.bench import discs, exit_code, label_image, text_of, tiff, wait_until

from redis_consumer.arrays import Tracks
from redis_consumer.results.ctc import load_ctc
from redis_consumer.results.trk import load_trk, save_trk
from redis_consumer.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt
    from tests.acceptance.bench import Bench

    from redis_consumer.arrays import AnyArray
    from redis_consumer.demo.stack import Child

pytestmark = pytest.mark.slow

NAME = "spot 1/mesmer, Größe 細胞.TIF"
STEM = NAME.removesuffix(".TIF")
IMAGE, CELLS = discs(110, 160)
FRAMES = 10
MOVIE = np.stack([np.roll(IMAGE, t, axis=0) for t in range(FRAMES)])
"""Cells that move down, and never across the border."""
LINKED = {"CALIBAN_MODEL": "none"}
BY_MODELS = "NuclearTrackingNE:6 and NuclearTrackingInf:6"


@pytest.fixture(scope="module", autouse=True)
def workers(bench: Bench, segmentation_worker: Child) -> Iterator[dict[str, Child]]:
    """One for each queue, as the Kiosk deploys them; they end as they began."""
    started = {
        "spot": bench.worker("spot-2", QUEUE="spot", CONSUMER_TYPE="spot"),
        "mesmer": bench.worker("mesmer-2", QUEUE="mesmer", CONSUMER_TYPE="mesmer", MESMER_COMPARTMENT="both"),
        "polaris": bench.worker("polaris-2", QUEUE="polaris", CONSUMER_TYPE="polaris", POLARIS_SCALE="1"),
        "caliban": caliban(bench, "caliban", **LINKED),
        "tracking": caliban(bench, "tracking", CONSUMER_TYPE="tracking", TF_PORT=str(small_server(bench))),
    }
    yield started
    for worker in (*started.values(), segmentation_worker):
        assert worker.process.poll() is None
        assert "Traceback" not in text_of(worker)
    end(*started.values())  # other tests look at who did their jobs


def caliban(bench: Bench, queue: str, name: str = "", **variables: str) -> Child:
    given = {"CONSUMER_TYPE": "caliban", "SEGMENTATION_QUEUE": "segmentation", **variables}
    return bench.worker(name or f"{queue}-2", QUEUE=queue, **given)


def small_server(bench: Bench) -> int:
    """Start a model server that takes four frames at once; return its port."""
    command = [sys.executable, "-P", "-m", "redis_consumer", "serve-models", str(bench.folder / "models")]
    return bench.port_of(bench.start("small-server", [*command, "--port", "0", "--max-batch-size", "4"], {}))


def children(bench: Bench, key: str) -> list[str]:
    found: list[str] = bench.redis.zrange(f"redis-consumer:children:{key}", 0, -1)
    return found


def tracks_of(bench: Bench, fields: Mapping[str, str]) -> Tracks:
    """Return the tracks of a job's archive: a stack and its lineage, and nothing else."""
    (name, stack), (last, lineage) = bench.entries(fields).items()
    assert name.endswith("_feature_0.tif")
    assert last == "lineage.json"
    cells = json.loads(lineage)
    for label, cell in cells.items():
        assert cell.keys() == {"label", "frames", "daughters", "capped", "frame_div", "parent"}
        assert str(cell["label"]) == label
    parents = {cell["label"]: cell["parent"] for cell in cells.values() if cell["parent"] is not None}
    return Tracks(label_image(stack).astype(np.int32), parents)


def whole(tracks: Tracks, frames: int = FRAMES) -> bool:
    """Say whether every cell was followed from the first frame to the last."""
    return [cell.frames for cell in tracks.lineage.values()] == [tuple(range(frames))] * CELLS


# Movies.


PAIRWISE = {"model_name": "TrackingModel", "model_version": "0"}
"""As jobs of the first years name their model."""


@pytest.mark.parametrize(
    ("queue", "fields", "by"),
    [
        ("caliban", {}, "distance and size"),
        ("caliban", PAIRWISE, "distance and size"),
        ("tracking", {}, BY_MODELS),
        ("tracking", PAIRWISE, "TrackingModel:0"),
        ("tracking", {**PAIRWISE, "model_version": "1"}, "TrackingModel:1"),
    ],
)
def test_a_movie_goes_through_its_statuses_to_tracks(
    bench: Bench, queue: str, fields: Mapping[str, str], by: str
) -> None:
    key = bench.push(queue, bench.upload(tiff(MOVIE), "movie.TIF"), original_name=NAME, **fields)
    done = bench.done(key)
    assert bench.statuses(key) == ["new", "started", "predicting", "saving-results", "done"]
    assert next(iter(bench.entries(done))) == f"{STEM}_feature_0.tif"
    assert whole(tracks_of(bench, done))
    assert done["tracked_by"] == by
    assert done["total_jobs"] == "1"
    assert {"finished_at", "total_time", "upload_time", "download_time", "prediction_time"} <= done.keys()
    told = [int(write["progress"]) for write in bench.writes(key) if "progress" in write]
    assert told == sorted(told)
    assert told[-1] == 100
    assert {"status", "output_url", "output_file_name", "finished_at"} <= list(bench.writes(key))[-1].keys()
    assert bench.redis.ttl(key) == -1


def test_frames_are_jobs_as_the_kiosk_writes_them_and_leave_nothing(bench: Bench) -> None:
    key = bench.push("caliban", bench.upload(tiff(MOVIE), "movie.tif"), original_name=NAME)
    fields = bench.done(key)
    frames = children(bench, key)
    assert fields["children"].split(",") == frames
    for place, child in enumerate(frames):
        hashed = bench.fields(child)
        name = f"mesmer, Größe 細胞.TIF-tracking-frame-{place}.tif"
        assert re.fullmatch(rf"segmentation:[0-9a-f]{{32}}-{name.replace(',', '_')}:[0-9a-f-]+", child)
        assert hashed["original_name"].endswith(f"-{name}")
        assert re.fullmatch(r"output/.+\.tif", hashed["input_file_name"])
        assert (hashed["channels"], hashed["dimension_order"], hashed["status"]) == ("0,,", "XY", "done")
        assert hashed["identity_upload"] == "caliban-2"
        assert 0 < bench.redis.ttl(child) <= 3600
    left = {entry["path"] for entries in bench.s3.list("output/") for entry in entries}
    gone = {bench.redis.hget(child, field) for child in frames for field in ("input_file_name", "output_file_name")}
    assert not gone & left
    assert fields["output_file_name"] in left


@pytest.mark.parametrize("queue", ["caliban", "tracking"])
def test_a_track_file_is_tracked_without_segmentation(bench: Bench, tmp_path: Path, queue: str) -> None:
    labels = np.stack([np.roll(squares(), t, axis=0) for t in range(40)])
    save_trk(labels[..., None].astype(np.float32), Tracks(labels), tmp_path / "movie.trk")
    content = (tmp_path / "movie.trk").read_bytes()
    key = bench.push(queue, bench.upload(content, "movie.TRK"), original_name="movie.TRK")
    tracks = tracks_of(bench, bench.done(key))
    np.testing.assert_array_equal(tracks.array > 0, labels > 0)
    assert [cell.frames for cell in tracks.lineage.values()] == [tuple(range(40))] * 2
    assert not children(bench, key)


def test_a_pairwise_model_finds_divisions_and_none_that_prove_false(bench: Bench, tmp_path: Path) -> None:
    """One cell shrinks, which looks like a division into one, and divides in earnest three frames later."""
    labels = np.zeros((9, 60, 60), np.int32)
    labels[:, 40:50, 40:50] = 2
    labels[:3, 10:20, 10:20] = labels[3:6, 10:20, 10:16] = 1
    labels[6:, 10:20, 10:13], labels[6:, 10:20, 15:18] = 1, 3
    save_trk(labels[..., None].astype(np.float32), Tracks(labels), tmp_path / "movie.trk")
    upload = bench.upload((tmp_path / "movie.trk").read_bytes(), "movie.trk", local=True)
    variables = {"TRACKING_MODEL": "TrackingModel:0", "DIVISION": "0.6", "STORAGE_BUCKET": bench.local_url}
    worker = caliban(bench, "first-years", CONSUMER_TYPE="tracking", **variables)
    fields = bench.done(bench.push("first-years", upload))
    assert fields["tracked_by"] == "TrackingModel:0"
    tracks = tracks_of(bench, fields)
    np.testing.assert_array_equal(tracks.array > 0, labels > 0)
    parent, first, second = (int(tracks.array[t, 15, column]) for t, column in ((0, 12), (8, 12), (8, 16)))
    assert tracks.lineage[parent].frames == tuple(range(6))
    assert tracks.parents == {first: parent, second: parent}
    assert tracks.lineage[int(tracks.array[0, 45, 45])].frames == tuple(range(9))
    end(worker)


def squares() -> npt.NDArray[np.int32]:
    labels = np.zeros((90, 60), np.int32)
    labels[5:20, 5:20], labels[25:40, 35:50] = 1, 2
    return labels


def test_a_frame_without_cells_is_no_failure(bench: Bench) -> None:
    movie = MOVIE[:4].copy()
    movie[2] = 300
    tracks = tracks_of(bench, bench.done(bench.push("caliban", bench.upload(tiff(movie)))))
    assert [len(np.unique(frame)) - 1 for frame in tracks.array] == [CELLS, CELLS, 0, CELLS]
    assert len(tracks.lineage) == CELLS


def test_an_archive_of_movies_keeps_their_lineages_apart(bench: Bench) -> None:
    bench.worker("caliban-zip-2", QUEUE="caliban", CONSUMER_TYPE="zip")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("day 1/a.tif", "day 2/a.tif"):
            archive.writestr(name, tiff(MOVIE[:3]))
    fields = bench.done(bench.push("caliban-zip", bench.upload(file.getvalue(), "movies.zip")))
    expected = [f"day {day}/a_{rest}" for day in (1, 2) for rest in ("feature_0.tif", "lineage.json")]
    assert list(bench.entries(fields)) == expected


def test_files_for_other_programs_stand_beside_the_zip(bench: Bench, tmp_path: Path) -> None:
    caliban(bench, "caliban-extras", EXTRA_OUTPUTS="tracks-ctc,tracks-trk", **LINKED)
    fields = bench.done(bench.push("caliban-extras", bench.upload(tiff(MOVIE))))
    keys = json.loads(fields["extra_outputs"])
    (tmp_path / "tracks.trk").write_bytes(bytes(bench.s3.get(keys["tracks-trk"]).bytes()))
    for item in bench.s3.list(keys["tracks-ctc"]).collect():
        (tmp_path / item["path"].rpartition("/")[2]).write_bytes(bytes(bench.s3.get(item["path"]).bytes()))
    found = tracks_of(bench, fields)
    ((raw, tracks),) = load_trk(tmp_path / "tracks.trk")
    np.testing.assert_array_equal(raw[..., 0], MOVIE)
    np.testing.assert_array_equal(tracks.array, found.array)
    np.testing.assert_array_equal(load_ctc(tmp_path).array, found.array)


# Deaths.


def test_a_worker_that_is_killed_while_a_movie_waits_submits_no_frame_twice(bench: Bench) -> None:
    variables = {"SEGMENTATION_QUEUE": "unserved", "LEASE_SECONDS": "2", **LINKED}
    first = caliban(bench, "orphans", "orphans-1", **variables)
    key = bench.push("orphans", bench.upload(tiff(MOVIE)))
    wait_until(lambda: bench.redis.llen("processing-orphans:parked:orphans-1") == 1, "the movie to wait")
    assert bench.fields(key)["status"] == "started"
    first.process.kill()
    exit_code(first)
    second = caliban(bench, "orphans", "orphans-2", **variables)
    segments = bench.worker("unserved-1", QUEUE="unserved", CONSUMER_TYPE="segmentation", LEASE_SECONDS="2")
    assert whole(tracks_of(bench, bench.done(key)))
    assert len(children(bench, key)) == FRAMES
    assert not bench.redis.llen("unserved")
    end(second, segments)


def test_a_worker_that_is_killed_while_it_tracks_leaves_the_movie_to_others(bench: Bench) -> None:
    variables = {"LEASE_SECONDS": "2"}
    first = caliban(bench, "widows", "widows-1", TF_PORT=str(free_port()), **variables)
    key = bench.push("widows", bench.upload(tiff(MOVIE)))
    bench.wait(key, "predicting")
    first.process.kill()
    exit_code(first)
    before = children(bench, key)
    second = caliban(bench, "widows", "widows-2", **variables)
    fields = bench.done(key)
    assert whole(tracks_of(bench, fields))
    assert (fields["tracked_by"], fields["updated_by"]) == (BY_MODELS, "widows-2")
    assert children(bench, key) == before
    end(second)


def end(*workers: Child) -> None:
    """End workers: their short leases have them sweep what other tests want to see."""
    for worker in workers:
        worker.process.kill()
        exit_code(worker)


# Spots in cells.

PLACES = [(30, 25), (25, 78), (3, 100)]
"""Two in cells, one between them."""


def spots() -> AnyArray:
    image = np.full(IMAGE.shape, 100, np.uint16)
    for place in PLACES:
        image[place] = 1000
    return image


STACK = np.stack([spots(), IMAGE, IMAGE])
"""(C, Y, X): spots, nuclei, cytoplasm."""


def table(content: bytes) -> list[list[str]]:
    return [line.split(",") for line in content.decode().splitlines()]


class Kind(NamedTuple):
    fields: Mapping[str, str]
    features: int


KINDS = {
    "none": Kind({"segmentation_type": "none"}, 0),
    "blank": Kind({}, 0),
    "nuclei": Kind({"segmentation_type": "cell culture", "channels": "0,1,"}, 1),
    "both": Kind({"segmentation_type": "cell culture", "channels": "0,1,2"}, 2),
    "tissue": Kind({"segmentation_type": "tissue", "channels": "0,1,2"}, 2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_spots_are_found_in_cells(bench: Bench, kind: str) -> None:
    fields, features = KINDS[kind]
    upload = bench.upload(tiff(STACK, imagej=True, metadata={"axes": "CYX"}))
    key = bench.push("polaris", upload, original_name=NAME, **fields)
    done = bench.done(key)
    assert bench.statuses(key) == ["new", "started", "predicting", "saving-results", "done"]
    entries = bench.entries(done)
    assert list(entries) == [*(f"{STEM}_batch_0_feature_{c}.tif" for c in range(features)), f"{STEM}_0.csv"]
    *images, csv = entries.values()
    header, *rows = table(csv)
    assert header == ["x", "y", *(f"cellID{c}" for c in range(features))]
    labels = [label_image(image) for image in images]
    found = {(round(float(y)), round(float(x))): list(map(int, ids)) for x, y, *ids in rows}
    assert set(found) == set(PLACES)
    for place, ids in found.items():
        assert ids == [int(image[place]) for image in labels]
    assert all(found[PLACES[0]])
    assert not any(found[PLACES[2]])
    assert {"upload_time", "total_time", "finished_at"} <= done.keys()
    assert [child.partition(":")[0] for child in children(bench, key)] == {
        "none": ["spot"],
        "blank": ["spot"],
        "nuclei": ["spot", "segmentation"],
        "both": ["spot", "segmentation", "segmentation"],
        "tissue": ["spot", "mesmer"],
    }[kind]


def test_an_archive_of_spots_in_cells_is_a_parent_of_parents(bench: Bench) -> None:
    workers = [
        bench.worker("wells-1", QUEUE="wells", CONSUMER_TYPE="polaris", POLARIS_SCALE="1"),
        bench.worker("wells-zip-1", QUEUE="wells", CONSUMER_TYPE="zip"),
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in {"b/1.tif": tiff(STACK), "bad.tif": b"no image", "a, 2.tif": tiff(STACK)}.items():
            archive.writestr(name, content)
    wanted = {**KINDS["nuclei"].fields, "dimension_order": "CXY"}
    key = bench.push("wells-zip", bench.upload(file.getvalue(), "plate.zip"), **wanted)
    fields = bench.done(key)
    assert bench.statuses(key) == ["new", "started", "waiting", "done"]
    entries = bench.entries(fields)
    assert list(entries) == [
        f"{stem}_{rest}" for stem in ("b/1", "a, 2") for rest in ("batch_0_feature_0.tif", "0.csv")
    ]
    assert [len(table(content)) for name, content in entries.items() if name.endswith(".csv")] == [1 + len(PLACES)] * 2

    first, bad, last = children(bench, key)
    assert (fields["children:done"].split(","), fields["children:failed"]) == ([first, last], bad)
    for child in (first, last):
        assert [part.partition(":")[0] for part in children(bench, child)] == ["spot", "segmentation"]
    grand = [part for child in (first, last) for part in children(bench, child)]
    assert all(0 < bench.redis.ttl(member) <= 3600 for member in (first, last, *grand))
    left = {entry["path"] for entries in bench.s3.list("output/") for entry in entries}
    names = ("input_file_name", "output_file_name")
    assert not {bench.redis.hget(member, name) for member in (first, last, *grand) for name in names} & left
    end(*workers)


def test_a_batch_has_a_table_for_each_image(bench: Bench) -> None:
    batch = np.stack([STACK, STACK[:, ::-1]])
    fields = {"dimension_order": "BCXY", "segmentation_type": "tissue", "channels": "0,1,2"}
    entries = bench.entries(
        bench.done(bench.push("polaris", bench.upload(tiff(batch)), original_name="a.tif", **fields))
    )
    parts = ("batch_{}_feature_0.tif", "batch_{}_feature_1.tif", "{}.csv")
    assert list(entries) == [f"a_{part.format(i)}" for i in range(2) for part in parts]
    assert len(table(entries["a_1.csv"])) == 1 + len(PLACES)


def test_a_plain_image_of_spots(bench: Bench) -> None:
    entries = bench.entries(bench.done(bench.push("polaris", bench.upload(tiff(spots())), original_name="a.tif")))
    assert list(entries) == ["a_0.csv"]
    assert len(table(entries["a_0.csv"])) == 1 + len(PLACES)


def test_an_image_without_spots_and_cells_is_no_failure(bench: Bench) -> None:
    flat = np.full((3, 60, 60), 300, np.uint16)
    upload = bench.upload(tiff(flat, imagej=True, metadata={"axes": "CYX"}))
    key = bench.push("polaris", upload, original_name="a.tif", segmentation_type="cell culture")
    assert bench.entries(bench.done(key))["a_0.csv"] == b"x,y,cellID0,cellID1\n"


# Bad input, row by row.


class Bad(NamedTuple):
    queue: str
    content: AnyArray | bytes
    fields: Mapping[str, str]
    reason: str
    file: str = "a.tif"


STILL = tiff(STACK, ome=True, metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "Cy5"]}})
FIVE = np.zeros((2, 3, 4, 20, 20), np.uint8)
NO_TRACKER = "Model NuclearSegmentation:1 is no tracking model: its inputs are image; expected are "
BAD = [
    Bad("caliban", IMAGE, {}, "The movie 'a.tif' has 1 frame: expected are two or more"),
    Bad("caliban", STILL, {}, "The movie 'a.tif' has 1 frame: expected are two or more; its axes are CYX"),
    Bad("caliban", np.zeros((61, 9, 9), np.uint8), {}, "The image 'a.tif' has 61 frames: allowed are 60"),
    Bad("caliban", FIVE, {}, "The image 'a.tif'"),
    Bad("caliban", b"no image", {}, "The image 'a.tif' cannot be read"),
    Bad("caliban", b"no image", {}, 'Invalid filetype for "caliban" job: ', "a.png"),
    Bad("caliban", b"no tar", {}, "The track file 'a.trk' cannot be read", "a.trk"),
    Bad("caliban", MOVIE[:2], {"scale": "99"}, "Frame 0 of the movie 'a.tif' (job 'segmentation:"),
    Bad("caliban", MOVIE[:2], {"scale": "99"}, "The field 'scale' is '99': allowed is a number"),
    Bad("caliban", np.zeros((3, 9, 9, 2), np.uint8), {"dimension_order": "BXYC"}, "has 2 channels to track"),
    Bad("tracking", MOVIE[:2], {"model_name": "NuclearSegmentation", "model_version": "1"}, NO_TRACKER),
    Bad("tracking", MOVIE[:2], {"model_name": "Nothing", "model_version": "1"}, "Nothing:1"),
    Bad("tracking", MOVIE[:2], {"model_name": "a b?"}, "The fields 'model_name' and 'model_version' are wrong"),
    Bad("polaris", STACK[0], {"segmentation_type": "cells"}, "The field 'segmentation_type' is 'cells': allowed are"),
    Bad("polaris", STACK[0], {"segmentation_type": "tissue"}, "The job names no two channels for the cells"),
    Bad("polaris", STACK[0], {"segmentation_type": "cell culture"}, "The job names no channel for the cells"),
    Bad("polaris", STACK[0], {"channels": "1"}, "The field 'channels' names '1': allowed are 0 to 0"),
    Bad("polaris", STACK[0], {"channels": "0,0,0,0"}, "The field 'channels' names 4 roles"),
    Bad("polaris", b"no image", {}, "The image 'a.tif' cannot be read"),
    Bad(
        "polaris",
        STACK[:2].transpose(1, 2, 0),
        {"segmentation_type": "cell culture", "dimension_order": "XYC", "scale": "99"},
        "The job on the queue 'segmentation' ('segmentation:",
    ),
]


@pytest.mark.parametrize("row", BAD, ids=lambda row: f"{row.queue}-{row.reason[:40]}")
def test_a_bad_job_fails_in_one_line(bench: Bench, row: Bad) -> None:
    content: Any = row.content if isinstance(row.content, bytes) else tiff(row.content)
    key = bench.push(row.queue, bench.upload(content, row.file), original_name=row.file, **row.fields)
    assert row.reason in bench.failed(key)


def test_a_child_that_vanished_is_named(bench: Bench) -> None:
    worker = caliban(bench, "losses", SEGMENTATION_QUEUE="lost", LEASE_SECONDS="2", **LINKED)
    key = bench.push("losses", bench.upload(tiff(MOVIE[:2])), original_name="a.tif")
    wait_until(lambda: bench.redis.llen("processing-losses:parked:losses-2") == 1, "the movie to wait")
    gone, _ = children(bench, key)
    bench.redis.delete(gone)
    segments = bench.worker("lost-1", QUEUE="lost", CONSUMER_TYPE="segmentation", LEASE_SECONDS="2")
    assert bench.failed(key) == f"Frame 0 of the movie 'a.tif' (job {gone!r}): The job is gone from Redis"
    end(worker, segments)

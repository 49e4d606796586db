"""Bad input, row by row: what fails at once, waits, is dropped, succeeds all the same, or stops the start.

The worker lives on in every case: behind each bad job stands a good one.
"""

from __future__ import annotations

import io
import re
import struct
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from tests.acceptance.bench import BUCKET, FORBIDDEN, discs, job_hash, objects, tiff, wait_for

from redis_consumer.testing.servers import free_port, start_redis

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path
    from subprocess import CompletedProcess

    from tests.acceptance.bench import Bench

    from redis_consumer.arrays import AnyArray
    from redis_consumer.demo.stack import Child

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("image_worker", "segmentation_worker", "folder_worker"),
]

SMALL, DISCS = discs(60, 60)
PLAIN = {"preprocess_function": "none", "postprocess_function": "none"}
QUICK_SECONDS = 20.0
"""A wrong setting is told within so many seconds, also on a busy machine."""


def picture(image: AnyArray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def npy(array: AnyArray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff_bomb() -> bytes:
    """Return a TIFF of a few bytes that declares 10**12 pixels."""
    tags = [(256, 4, 10**6), (257, 4, 10**6), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 10**9)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


STAINED = np.random.default_rng(2).integers(120, 240, (60, 60, 3)).astype(np.uint8)
NOWHERE = np.full((60, 60), np.nan, np.float32)


class Bad(NamedTuple):
    """A job that fails, and what a person reads in the last line of its `reason`."""

    name: str
    reason: str
    """A regular expression."""
    content: bytes | None = tiff(SMALL)
    """What lies in the bucket; None for nothing."""
    fields: dict[str, str | None] = {}  # noqa: RUF012 - never written to
    """Of the job; None leaves one out."""
    queue: str = "image"


def bad(name: str, reason: str, content: bytes | None = tiff(SMALL), queue: str = "image", **fields: str | None) -> Bad:
    return Bad(name, reason, content, fields, queue)


SCALE = r"The field 'scale' is '{}': allowed is a number from 0\.1 to 10"
KEY = r"The object name '.*' is not allowed: {}"
BAD = [
    bad("model name", r"'model_name'.*'a b\?': allowed are letters", model_name="a b?", model_version="1"),
    bad("model version", r"'model_version'.*'one': allowed is a whole number", model_name="FixedSize",
        model_version="one"),
    bad("no input field", r"The field 'input_file_name' is missing or blank", input_file_name=None),
    bad("blank input field", r"The field 'input_file_name' is missing or blank", input_file_name=" "),
    bad("archive", r"Invalid filetype for \"image\" job: 'uploads/a\.zip'", None, input_file_name="uploads/a.zip"),
    bad("no image", r"The image 'cells\.tif' cannot be read: allowed are TIFF, PNG", b"this is no image"),
    bad("empty file", r"The image 'cells\.tif' cannot be read: it is empty", b""),
    bad("truncated TIFF", r"The image 'cells\.tif' cannot be read: .*cut short", tiff(SMALL)[:-4000]),
    bad("truncated PNG", r"The image 'cells\.tif' cannot be read: it is damaged", picture(SMALL)[:900]),
    bad("half a TIFF header", r"The image 'cells\.tif' cannot be read: it is damaged", b"II*\0\x08"),
    bad("one axis", r"The image 'cells\.tif'.*\(60,\)", npy(SMALL[0])),
    bad("too many axes", r"The image 'cells\.tif'.*\(2, 2, 2, 30, 30\)", npy(np.ones((2, 2, 2, 30, 30)))),
    bad("axes of another image", r"'dimension_order' 'BXYC' names 4 axes.*has 3: shape \(2, 60, 60\)",
        npy(np.stack([SMALL] * 2)), dimension_order="BXYC"),
    bad("axes that are none", r"The field 'dimension_order' is 'QQ': allowed are X and Y", dimension_order="QQ"),
    bad("an axis twice", r"The field 'dimension_order' is 'XYY': allowed are X and Y", dimension_order="XYY"),
    bad("a movie for one image", r"'dimension_order' 'XY' names 2 axes.*has 3: shape \(3, 60, 60\), .*metadata say TYX",
        tiff(np.stack([SMALL] * 3), metadata={"axes": "TYX"}), dimension_order="XY"),
    bad("a movie of stacks", r"The image 'cells\.tif' has the axes TZYX \(2 x 3 x 60 x 60\): allowed are Y and X, one",
        tiff(np.stack([[SMALL] * 3] * 2), metadata={"axes": "TZYX"})),
    bad("a page without pixels", r"The image 'cells\.tif' cannot be read: it declares no pixels, shape \(0, 60\)",
        npy(np.zeros((0, 60)))),
    bad("no numbers", r"The image 'cells\.tif'.*complex64: allowed are real numbers",
        npy(np.ones((9, 9), np.complex64))),
    bad("channel out of range", r"The field 'channels' names '3': allowed are 0 to 0", channels="3"),
    bad("channel by name", r"The field 'channels' names 'DAPI': allowed are 0 to 0", channels="DAPI"),
    bad("unknown first step", r"preprocess_function 'sharpen': allowed are histogram_normalization,",
        preprocess_function="sharpen"),
    bad("unknown last step", r"postprocess_function 'guess': allowed are deep_watershed,",
        postprocess_function="deep_watershed,guess"),
    *(bad(f"scale {text}", SCALE.format(text), scale=text) for text in ("nan", "x", "1000", "-1", "0", "inf")),
    bad("cuts by name", r"The field 'cuts' is 'two': allowed is a whole number from 0", cuts="two"),
    bad("negative cuts", r"The field 'cuts' is '-1': allowed is a whole number from 0", cuts="-1"),
    bad("more cuts than pixels", r"The fields 'cuts' and 'field_size' are 1000 and 61.*60 x 60", cuts="1000"),
    bad("field as large as a country", r"The fields 'cuts' and 'field_size' are 2 and 1000000001.*60 x 60", cuts="2",
        field_size="1000000001"),
    bad("field size", r"The field 'field_size' is '6\.5': allowed is a whole number from 0", cuts="2",
        field_size="6.5"),
    bad("missing object", r"Object 'uploads/nothing\.tif' is not in the bucket", None,
        input_file_name="uploads/nothing.tif"),
    bad("no permission", rf"The storage refuses access to '{FORBIDDEN}/image\.tif'",
        input_file_name=f"{FORBIDDEN}/image.tif"),
    bad("up and away", KEY.format(r"it has a segment '\.' or '\.\.'"), None,
        input_file_name="uploads/../../secret.tif"),
    bad("from the root", KEY.format("it starts with '/'"), None, input_file_name="/etc/passwd"),
    bad("backslashes", KEY.format("it has a control character or a backslash"), None,
        input_file_name="uploads\\a.tif"),
    bad("somebody else's address", r"The address at 'example\.org' is not one of the bucket", None,
        input_file_name="https://example.org/uploads/a.tif"),
    bad("a file's address", r"is not one of the bucket", None, input_file_name="file:///etc/passwd"),
    bad("colour picture", r"The image 'cells\.tif' is a colour picture", picture(STAINED)),
    bad("TIFF of 10^12 pixels", r"1000000 x 1000000 pixels: allowed are 32768 x 32768 \(MAX_LARGE_SIDE\)", tiff_bomb()),
    # With steps that need the image in one piece.
    bad("PNG of 10^8 pixels", r"10000 x 10000 pixels: allowed are 2048 x 2048",
        picture(np.zeros((10**4, 10**4), np.uint8)), cuts="2"),
    bad("too many frames", r"61 frames: allowed are 60 \(MAX_IMAGE_FRAMES\)", tiff(np.zeros((61, 4, 4), np.uint8)),
        dimension_order="BXY"),
    bad("NaN", r"The image cannot be processed: .*(NaN|finite)", tiff(NOWHERE)),
    # The model server is asked three times within 10 s: in other queues, and looked at last.
    bad("unknown model", r"model Nothing:1: Servable not found.*Nothing.*\(NOT_FOUND\)", queue="segmentation",
        model_name="Nothing", model_version="1"),
    bad("unknown version", r"model NuclearSegmentation:77: Servable not found.*77.*\(NOT_FOUND\)", queue="predict",
        model_name="NuclearSegmentation", model_version="77"),
]  # fmt: skip


class Pair(NamedTuple):
    """A bad job and the good one behind it."""

    bad: str
    good: str


@pytest.fixture(scope="module")
def workers(image_worker: Child, segmentation_worker: Child, folder_worker: Child) -> dict[str, Child]:
    return {"image": image_worker, "segmentation": segmentation_worker, "predict": folder_worker}


@pytest.fixture(scope="module")
def pushed(bench: Bench, workers: dict[str, Child]) -> dict[str, Pair]:
    """All of them at once: the workers have one lane each, so a queue's jobs are done in this order."""
    assert workers
    good = {local: bench.upload(SMALL, local=local) for local in (False, True)}
    pairs = {}
    for row in sorted(BAD, key=lambda row: row.queue == "image"):  # the long ones first
        local = row.queue == "predict"
        key = row.fields.get("input_file_name")
        if row.content is not None:
            key = bench.upload(row.content, key if key and key.strip() else "image.tif", local=local)
        given = {"original_name": "cells.tif", "input_file_name": key, **row.fields}
        pairs[row.name] = Pair(bench.push(row.queue, **given), bench.push(row.queue, good[local], **PLAIN))
    return pairs


@pytest.mark.parametrize("row", BAD, ids=lambda row: row.name)
def test_bad_input_fails_at_once_and_says_why(
    bench: Bench, workers: dict[str, Child], pushed: dict[str, Pair], row: Bad
) -> None:
    pair = pushed[row.name]
    reason = bench.failed(pair.bad)
    assert re.search(row.reason, reason), reason
    fields = bench.done(pair.good)
    assert fields["updated_by"] == bench.fields(pair.bad)["updated_by"]
    assert workers[row.queue].process.poll() is None


# What waits, and then succeeds.


def test_jobs_wait_for_a_model_server_that_is_not_up_yet(bench: Bench) -> None:
    """One of them loses its hash meanwhile: it is not created again."""
    port = free_port()
    worker = bench.worker("early-1", QUEUE="early", CONCURRENCY="2", TF_PORT=str(port))
    keys = [bench.push("early", bench.upload(SMALL)) for _ in range(2)]
    for key in keys:
        bench.wait(key, "predicting")
    lists = {name: kind for name, kind in bench.processing_lists().items() if name.startswith("processing-early:")}
    assert list(lists.values()) == ["list", "list"], "the autoscaler sees them"
    stays, goes = keys
    bench.redis.delete(goes)
    bench.serve_models(bench.folder / "models", port)
    (labels,) = bench.results(bench.done(stays)).values()
    assert objects(labels) == DISCS
    wait_for(worker, f"Job {goes} is no longer ours, dropped")
    assert not bench.redis.exists(goes)
    assert int(bench.fields(stays)["predict_retries"]) > 0
    bench.done(bench.push("early", bench.upload(SMALL), **PLAIN))


def test_a_worker_waits_for_a_redis_that_is_not_up_yet(bench: Bench, tmp_path: Path) -> None:
    port = free_port()
    worker = bench.worker("early-2", QUEUE="late", REDIS_PORT=str(port))
    wait_for(worker, "The queue does not answer")
    with start_redis(tmp_path, port):
        late = bench.on_redis(port)
        key = late.push("late", bench.upload(SMALL))
        assert late.done(key)["updated_by"] == "early-2"
        worker.stop()
    assert worker.process.returncode == 0


# What is dropped, and not created again.


def test_a_job_whose_hash_is_missing_is_dropped(bench: Bench, image_worker: Child) -> None:
    ghost = f"image:ghost.tif:{uuid.uuid4()}"
    bench.redis.lpush("image", ghost)
    bench.done(bench.push("image", bench.upload(SMALL), **PLAIN))
    assert not bench.redis.exists(ghost)
    wait_for(image_worker, f"Entry {ghost} is dropped: missing")


@pytest.mark.parametrize("status", ["done", "failed"])
def test_a_job_that_is_final_already_is_dropped(bench: Bench, image_worker: Child, status: str) -> None:
    over = bench.push("image", bench.upload(SMALL), status=status)
    before = bench.fields(over)
    bench.done(bench.push("image", bench.upload(SMALL), **PLAIN))
    assert bench.fields(over) == before
    wait_for(image_worker, f"Entry {over} is dropped: final")


# What succeeds all the same.

NAMES = [
    "two words.tif",
    "Zellkerne, grün: 1,5 µm, 核.tif",
    "a:b,c;d&e=f#g?h%20+.tif",
    "experiment 1/well A01/cells.tif",
    "CELLS.TIF",
    "no-extension",
    "a.b.c.tif",
    "'quoted' \"twice\".tif",
    "[x] {y} *.tif",
    f"{'long' * 40}.tif",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("queue", ["image", "predict"])
def test_names_of_every_kind_pass_through(bench: Bench, name: str, queue: str) -> None:
    key = bench.upload(SMALL, f"uploads/{uuid.uuid4().hex}/{name}", local=queue == "predict")
    fields = bench.done(bench.push(queue, key, original_name=name))
    ((entry, labels),) = bench.results(fields).items()
    assert entry == str(PurePosixPath(name).with_suffix("")) + "_feature_0.tif"
    assert objects(labels) == DISCS


@pytest.mark.parametrize("value", ["", "  ", None], ids=["empty", "spaces", "absent"])
@pytest.mark.parametrize("queue", ["image", "segmentation"])
def test_fields_may_be_blank_or_absent(bench: Bench, queue: str, value: str | None) -> None:
    needed = {"input_file_name", "status"}
    blank = {name: value for name in job_hash(queue, "uploads/a.tif")[1] if name not in needed}
    (labels,) = bench.results(bench.done(bench.push(queue, bench.upload(SMALL), **blank))).values()
    assert objects(labels) == DISCS


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("../../etc/cells.tif", "etc/cells_feature_0.tif"),
        ("/etc/cells.tif", "etc/cells_feature_0.tif"),
        ("..\\..\\cells.tif", "cells_feature_0.tif"),
        ("C:\\data\\cells.tif", "data/cells_feature_0.tif"),
        ("..", "image_feature_0.tif"),
    ],
)
def test_no_name_leads_out_of_the_archive(bench: Bench, name: str, entry: str) -> None:
    fields = bench.done(bench.push("image", bench.upload(SMALL), original_name=name))
    assert list(bench.results(fields)) == [entry]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "NPY"])
def test_images_of_other_kinds_are_read(bench: Bench, kind: str) -> None:
    grey = (SMALL // 16).astype(np.uint8)
    content = npy(grey) if kind == "NPY" else picture(grey, kind)
    fields = bench.done(bench.push("image", bench.upload(content, f"cells.{kind.lower()}")))
    ((entry, labels),) = bench.results(fields).items()
    assert entry == "cells_feature_0.tif"
    assert objects(labels) == DISCS


def test_a_colour_picture_is_taken_where_the_job_names_a_channel(bench: Bench) -> None:
    grey = (SMALL // 16).astype(np.uint8)
    content = picture(np.dstack([np.zeros_like(grey), np.zeros_like(grey), grey]))
    (labels,) = bench.results(bench.done(bench.push("image", bench.upload(content), channels="2"))).values()
    assert objects(labels) == DISCS


def test_an_input_may_be_an_address_of_our_own_bucket(bench: Bench) -> None:
    key = bench.upload(SMALL, "uploads/own/two words.tif")
    for address in (f"{bench.endpoint}/{BUCKET}/{quote(key)}", f"s3://{BUCKET}/{quote(key)}"):
        bench.done(bench.push("image", address, original_name="cells.tif", **PLAIN))


# What stops the start.

WRONG = {
    "CONCURRENCY is 'many'; allowed is a whole number from 1": {"CONCURRENCY": "many"},
    "QUEUE is 'a:b'; allowed is a name without ':'": {"QUEUE": "a:b"},
    "REDIS_PORT is '70000'; allowed is a whole number from 1 to 65535": {"REDIS_PORT": "70000"},
    "LEASE_SECONDS is 'nan'; allowed is a number from 2": {"LEASE_SECONDS": "nan"},
    "NUCLEAR_MODEL is 'Nuclear:six'; allowed is a model as Name:version": {"NUCLEAR_MODEL": "Nuclear:six"},
    "STORAGE_BUCKET is 'ftp://images'; allowed is s3://bucket": {"STORAGE_BUCKET": "ftp://images"},
}
"""What the environment alone can tell."""
STOPS: dict[str, dict[str, Any]] = {
    "STORAGE_BUCKET is 's3://no-such-bucket': there is no such bucket": {"STORAGE_BUCKET": "s3://no-such-bucket"},
    "STORAGE_BUCKET is '/no/such/folder': there is no such folder": {"STORAGE_BUCKET": "file:///no/such/folder"},
    "CONSUMER_TYPE is 'nuclei': allowed are caliban, ": {"CONSUMER_TYPE": "nuclei"},
    "CONSUMER_TYPE is 'no.such:Thing': it cannot be imported": {"CONSUMER_TYPE": "no.such:Thing"},
    "CONSUMER_TYPE is 'json:loads': .* is not a subclass": {"CONSUMER_TYPE": "json:loads"},
    "CONSUMER_TYPE is ':': it cannot be imported": {"CONSUMER_TYPE": ":"},
    "REDIS_USERNAME, REDIS_PASSWORD: the Redis at .* refuses us": {"REDIS_USERNAME": "who", "REDIS_PASSWORD": "what"},
}
"""What the world outside tells."""


@pytest.fixture(scope="module")
def starts(bench: Bench) -> dict[str, Future[CompletedProcess[str]]]:
    with ThreadPoolExecutor(2) as pool:
        return {words: pool.submit(bench.command, "run", **variables) for words, variables in STOPS.items()}


@pytest.mark.parametrize("words", STOPS)
def test_a_wrong_setting_stops_the_start_in_one_line(
    starts: dict[str, Future[CompletedProcess[str]]], words: str
) -> None:
    (line,) = stopped(starts[words].result())
    assert re.match(words, line), line


def test_all_wrong_settings_are_told_at_once_in_a_line_each(bench: Bench) -> None:
    variables = {name: value for each in WRONG.values() for name, value in each.items()}
    options = ["--set", "GRPC_TIMEOUT=soon", "--set", "GRPC_TIMOUT=5"]
    lines = stopped(bench.command("run", *options, seconds=QUICK_SECONDS, **variables))
    expected = [
        *WRONG,
        "GRPC_TIMEOUT is 'soon'; allowed is a whole number from 1",
        "GRPC_TIMOUT is no setting; did you mean GRPC_TIMEOUT?",
    ]
    assert len(lines) == len(expected)
    for words in expected:
        assert any(line.startswith(words) for line in lines), words


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--set", "nonsense"], "--set is 'nonsense': allowed is NAME=VALUE"),
        (["--env-file", "no-such.env"], "The env file 'no-such.env' cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_option_stops_the_start_in_one_line(bench: Bench, option: list[str], words: str) -> None:
    assert stopped(bench.command("run", *option, seconds=QUICK_SECONDS)) == [words]


def stopped(ended: CompletedProcess[str]) -> list[str]:
    """Return the lines that tell why."""
    assert ended.returncode == 2, ended.stdout + ended.stderr
    lines = ended.stderr.splitlines()
    assert all(line.startswith("redis-consumer: ") for line in lines), ended.stderr
    return [line.removeprefix("redis-consumer: ") for line in lines]

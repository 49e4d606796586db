"""Whole images in memory, counted: how many planes of float32 each stage of a job has at once, at most.

Memory that Python and numpy asked for, so a plane that is not yet written to counts as well.  What libraries in other
languages allocate is not seen.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.guards.memory import nuclei, traced, weighed

from redis_consumer.consumers import large, work
from redis_consumer.consumers.follower import Follower
from redis_consumer.job import Status
from redis_consumer.processing import planes as planes_of, stitching, views
from redis_consumer.wire import messages, serving_pb2 as pb
from redis_consumer.wire.tensors import decode_tensor, encode_tensor

if TYPE_CHECKING:
    from redis_consumer.arrays import AnyArray

SIDES = (512, 1024, 2048)
ALLOWED = {
    Status.STARTED: (1.2, 1.2, 1.2),
    Status.PRE_PROCESSING: (2.5, 2.4, 2.3),
    Status.PREDICTING: (4.6, 12.9, 6.3),
    Status.POST_PROCESSING: (7.5, 7.4, 7.4),
    Status.SAVING_RESULTS: (2.8, 2.4, 2.3),
}
"""Planes of a job with an image of uint16, for each of `SIDES`: a seventh more than there are, but less than a whole
one.  Of a small image what is worked on at a time counts as well, and of a larger one all tiles are in flight: two more
planes where two replies come at the same moment."""
WHAT = {
    Status.STARTED: "the file and what is decoded of it, both in the file's type",
    Status.PRE_PROCESSING: "the image and what is made of it; the file is closed",
    Status.PREDICTING: "two outputs, a row of tiles of each, batches in flight; the image until its last tile is cut",
    Status.POST_PROCESSING: "two outputs, labels, and what the watershed needs: foreground, pieces, basins",
    Status.SAVING_RESULTS: "labels, and a plane of them as float32",
}
GROWTH = 1.15
BLOCK = 512
LONGEST_SECONDS = 60.0


@pytest.fixture(scope="module")
def planes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, float]]:
    """The most planes of each stage, by the side of the image; what is imported by a first job is there before."""
    weighed(tmp_path_factory.mktemp("first"), nuclei(128))
    found = {side: weighed(tmp_path_factory.mktemp("lab"), nuclei(side)) for side in SIDES}
    return {side: {stage: most / (4 * side**2) for stage, most in found[side].items()} for side in SIDES}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("stage", ALLOWED)
def test_planes_of_a_stage(planes: dict[int, dict[str, float]], stage: Status, side: int) -> None:
    most, allowed = planes[side][stage], ALLOWED[stage][SIDES.index(side)]
    assert most <= allowed, (
        f"while '{stage}' a job holds {most:.2f} planes of its image, {side} x {side} as float32, at once: allowed are "
        f"{allowed}, {WHAT[stage]}.  Look for a copy of all of it that could be a view, a strip at a time, or gone by "
        "then"
    )


@pytest.mark.parametrize("stage", ALLOWED)
def test_planes_of_a_stage_do_not_grow_with_the_image(planes: dict[int, dict[str, float]], stage: Status) -> None:
    smaller, larger = (planes[side][stage] for side in (1024, 2048))
    assert larger <= GROWTH * smaller, (
        f"while '{stage}' a job holds {smaller:.2f} planes of an image of 1024 x 1024 pixels and {larger:.2f} of one "
        "of 2048 x 2048: memory must grow with the pixels, and no faster"
    )


@pytest.fixture
def tensor() -> AnyArray:
    return np.ones((4, 512, 512, 1), np.float32)


def test_copies_of_a_request(tensor: AnyArray) -> None:
    with traced() as most:
        messages.write(pb.PredictRequest(), {"image": encode_tensor(tensor)})
        copies = most() / tensor.nbytes
    assert copies <= 1.1, (  # the message itself
        f"building a request makes {copies:.2f} copies of its tensor: allowed is 1, the message that is sent"
    )


@pytest.mark.parametrize("as_values", [False, True])
def test_copies_of_a_reply(tensor: AnyArray, *, as_values: bool) -> None:
    reply = messages.write(pb.PredictResponse(), {"prediction": encode_tensor(tensor, as_values=as_values)})
    with traced() as most:
        _, tensors = messages.read(pb.PredictResponse, reply)
        array = decode_tensor(tensors["prediction"])
        copies = most() / tensor.nbytes
    np.testing.assert_array_equal(array, tensor)
    assert copies <= 1.1, (
        f"reading a reply makes {copies:.2f} copies of its tensor: allowed is 1, the array that may be written to"
    )


class InTurns(Follower):
    """Has what can be labelled be labelled before more is predicted: as two threads ran, each run would be another."""

    _waits_for = 0, 0

    def reached(self, step: int, row: int) -> None:
        super().reached(step, row)
        with self._changed:
            assert self._changed.wait_for(lambda: self._done > step or self._waits_for > (step, row), LONGEST_SECONDS)

    def _wait(self, step: int, row: int) -> None:
        with self._changed:
            self._waits_for = step, row
        super()._wait(step, row)


@pytest.fixture(scope="module")
def by_blocks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, int]]:
    """The most bytes of each stage for an image done by blocks, and for one of twice its height."""
    # Tiles come singly: which requests are under way while labels are made is chance, and must not weigh.
    limits = {"MAX_IMAGE_HEIGHT": "256", "MAX_IMAGE_WIDTH": "256", "TF_MAX_BATCH_SIZE": "16"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(large, "stitch", partial(stitching.stitch, side=BLOCK))
        patch.setattr(large, "Follower", InTurns)
        patch.setattr(views, "blocks", partial(planes_of.blocks, side=BLOCK))
        patch.setattr(work, "LARGE_BYTES", 0)
        patch.setattr("redis_consumer.images.blocks.BLOCK_VALUES", BLOCK**2)
        weighed(tmp_path_factory.mktemp("first"), nuclei(320), **limits)
        images = [nuclei(height)[:, : 2 * BLOCK] for height in (4 * BLOCK, 8 * BLOCK)]
        return [weighed(tmp_path_factory.mktemp("lab"), image, **limits) for image in images]


@pytest.mark.parametrize("stage", ALLOWED)
def test_memory_of_an_image_done_by_blocks_stays_flat(by_blocks: list[dict[str, int]], stage: Status) -> None:
    """What there is once in a row of tiles grows with the width: so the larger image is as wide as the other."""
    smaller, larger = (found[stage] / 2**20 for found in by_blocks)
    assert larger <= GROWTH * smaller + 1, (
        f"while '{stage}' a job by blocks of {BLOCK} x {BLOCK} pixels holds {smaller:.1f} MB for an image of "
        f"{4 * BLOCK} rows and {larger:.1f} for one of {8 * BLOCK}: the memory of one block, or of one row of tiles, "
        "must do.  Read planes by their blocks, and write them where they come from: into a Canvas"
    )

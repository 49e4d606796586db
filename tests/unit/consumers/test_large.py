"""Images that are larger than one piece: the same objects as in one piece, and the same files."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from tests.unit.consumers.blockwise import PIECE, SHAPE, field, heads, tissue_heads, with_small_blocks

from redis_consumer.arrays import Labels
from redis_consumer.canvas import Canvas
from redis_consumer.consumers import ImageFileConsumer, MesmerConsumer, SegmentationConsumer, large
from redis_consumer.consumers.follower import Follower
from redis_consumer.errors import ConsumerError, LeaseLost, PredictionFailed, RetryJob, ServerNotReady
from redis_consumer.processing import POST_PROCESSES, planes, stitching
from redis_consumer.queues.base import Place
from redis_consumer.testing.labels import differing_objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.unit.consumers.lab import Lab, Result as Outcome

    from redis_consumer.arrays import AnyArray, Image, Result
    from redis_consumer.consumers import Consumer
    from redis_consumer.job import Job
    from redis_consumer.processing import PostProcess
    from redis_consumer.queues.base import FieldValue


@pytest.fixture
def lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab in which blocks are small."""
    return with_small_blocks(lab, monkeypatch)


def both(lab: Lab, consumer_type: type[Consumer], image: AnyArray, **fields: Any) -> tuple[Outcome, Outcome]:
    """Do a job in one piece and by blocks."""
    whole = lab.run(consumer_type, image, **fields)
    lab.environ.update(PIECE)
    by_blocks = lab.run(consumer_type, image, **fields)
    assert whole.fields["status"] == "done", whole.fields
    assert by_blocks.fields["status"] == "done", by_blocks.fields
    return whole, by_blocks


def assert_alike(whole: Outcome, by_blocks: Outcome, at_least: int) -> None:
    assert list(whole.files) == list(by_blocks.files)
    for name, expected in whole.files.items():
        found = by_blocks.files[name]
        assert found.dtype == expected.dtype == np.float32
        assert found.shape == expected.shape
        first, second = np.asarray(expected, np.int64), np.asarray(found, np.int64)
        planes_of = zip(first.reshape(-1, *first.shape[-2:]), second.reshape(-1, *second.shape[-2:]), strict=True)
        for one, other in planes_of:
            assert one.max() >= at_least
            assert differing_objects(one, other) == (0, 0)
            assert set(np.unique(other)) == set(range(other.max() + 1))


LONGEST_SECONDS = 10.0
ROW, TILES = 9, 63
"""Of 64 x 64 pixels in an image of `SHAPE`."""


class Labelling:
    """Stands before a post-processing by blocks: notes what it sees, and does something before some of them."""

    def __init__(self, finish: PostProcess, number: int) -> None:
        self.all = number
        self.seen: list[tuple[int, ...]] = []
        self.began = threading.Event()
        self.before: dict[int, Callable[[], None]] = {}
        """By the number of the block, from 1."""
        self.seconds = 0.0
        self._finish = finish

    def __call__(self, outputs: Sequence[AnyArray]) -> AnyArray:
        self.seen.append(outputs[0].shape)
        self.began.set()
        time.sleep(self.seconds)
        self.before.get(len(self.seen), lambda: None)()
        return self._finish(outputs)


@pytest.fixture
def labels(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Labelling:
    """Return what stands before the watershed of images by blocks: called once for each, of tiles that come singly."""
    monkeypatch.setattr(large, "stitch", partial(stitching.stitch, side=90, halo=30))
    monkeypatch.setattr(stitching, "WIDEST_HALO", 30)
    lab.environ.update(PIECE, TF_MAX_BATCH_SIZE="1")
    cores = len(list(planes.blocks(SHAPE, 90)))
    labelling = Labelling(POST_PROCESSES["deep_watershed"], cores)
    monkeypatch.setitem(cast("dict[str, PostProcess]", POST_PROCESSES), "deep_watershed", labelling)
    return labelling


def claim(lab: Lab) -> Job:
    return lab.claim(original_name="cells.tif", input_file_name=lab.put(field(1), "cells.tif"))


def handle(lab: Lab) -> None:
    lab.equipped(SegmentationConsumer).handle(claim(lab))


@pytest.mark.parametrize("consumer_type", [ImageFileConsumer, SegmentationConsumer])
@pytest.mark.parametrize("prepare", ["", "normalize", "histogram_normalization"])
@pytest.mark.parametrize("finish", ["", "mibi", "pixelwise", "multiplex_postprocess"])
def test_every_step_that_is_local_finds_the_same(
    lab: Lab, consumer_type: type[Consumer], prepare: str, finish: str
) -> None:
    if finish in ("mibi", "pixelwise"):
        lab.models.add("Nuclei:1", lambda image: _classes(heads(image)["semantic_0"]), (None, 64, 64, 1))
    if finish == "multiplex_postprocess":
        lab.models.add("Nuclei:1", lambda image: tissue_heads(image.repeat(2, axis=-1)), (None, 64, 64, 1))
    steps = {"preprocess_function": prepare, "postprocess_function": finish}
    assert_alike(*both(lab, consumer_type, field(1), **steps), at_least=10)


def test_steps_of_depth_find_the_same_objects_but_for_pixels_between_two(lab: Lab) -> None:
    """Of a plateau a pixel as far from one seed as from another goes to either, also in one piece."""
    lab.models.add("Nuclei:1", lambda image: _classes(heads(image)["semantic_0"]), (None, 64, 64, 1))
    whole, by_blocks = both(lab, ImageFileConsumer, field(1), postprocess_function="watershed")
    ((expected,), (found,)) = (tuple(made.files.values()) for made in (whole, by_blocks))
    assert found.max() == pytest.approx(expected.max(), rel=0.01)
    assert expected.max() > 20
    np.testing.assert_array_equal(found == 0, expected == 0)


def _classes(inner: AnyArray) -> AnyArray:
    """Return edge, interior and background, of which each step takes what it takes."""
    interior = np.clip(2 * np.asarray(inner, np.float32), 0, 1)
    return np.concatenate([1 - interior, interior, 0.5 * interior], axis=-1)


@pytest.mark.parametrize("scale", ["0.6", "1.7", "2"])
def test_a_scale_is_no_seam(lab: Lab, scale: str) -> None:
    assert_alike(*both(lab, SegmentationConsumer, field(2), scale=scale), at_least=20)


def test_roles_and_frames_have_a_file_each(lab: Lab) -> None:
    image = np.stack([[field(seed), field(seed + 10)] for seed in (3, 4)])
    roles = {"channels": "1,0", "dimension_order": "BCYX", "original_name": "my/well 1.tif"}
    whole, by_blocks = both(lab, SegmentationConsumer, image, name="cells.npy", **roles)
    assert len(whole.files) == 4
    assert_alike(whole, by_blocks, at_least=20)


def test_frames_are_one_stack_where_the_type_has_stacks(lab: Lab) -> None:
    image = np.stack([field(5), field(6)])
    whole, by_blocks = both(lab, ImageFileConsumer, image, name="cells.npy", dimension_order="TYX")
    assert [made.shape for made in by_blocks.files.values()] == [(2, *SHAPE)]
    assert_alike(whole, by_blocks, at_least=20)


@pytest.mark.parametrize("scale", ["1", "0.7", "1.5"])
@pytest.mark.parametrize("compartment", ["whole-cell", "both"])
def test_tissue_is_no_other(lab: Lab, scale: str, compartment: str) -> None:
    image = np.stack([field(7), field(8)])
    whole, by_blocks = both(lab, MesmerConsumer, image, name="cells.npy", scale=scale, compartment=compartment)
    assert len(whole.files) == (2 if compartment == "both" else 1)
    assert_alike(whole, by_blocks, at_least=20)


def test_what_fits_becomes_too_large_by_its_zoom(lab: Lab) -> None:
    """A zoom of 2 takes four times the memory: so it goes by blocks."""
    image = field(9, (60, 60))
    whole = lab.run(SegmentationConsumer, image, scale="3")
    lab.environ.update(PIECE)
    by_blocks = lab.run(SegmentationConsumer, image, scale="3")
    assert max(seen.shape[1] for _, seen in lab.models.seen) == 64
    assert_alike(whole, by_blocks, at_least=3)


@pytest.mark.parametrize("method", ["analyze", "segment"])
def test_a_type_with_an_analysis_of_its_own_has_it_for_many_frames_too(lab: Lab, method: str) -> None:
    lab.environ.update(PIECE)
    frames = np.stack([field(seed, (60, 60)) for seed in (7, 8)])
    for base in (SegmentationConsumer, ImageFileConsumer):
        own = type("Own", (base,), {method: lambda *_: Labels(np.full((2, 60, 60, 1), 5, np.int32))})
        result = lab.run(own, frames, dimension_order="TYX")
        assert {int(label) for labels in result.files.values() for label in np.unique(labels)} == {5}
        assert "allowed are 64 x 64" in lab.run(own, field(1)).reason
    tissue = np.stack([frames] * 2, axis=-1)
    own = type("Own", (MesmerConsumer,), {"analyze": lambda *_: Labels(np.full((2, 60, 60, 1), 5, np.int32))})
    (labels,) = lab.run(own, tissue, dimension_order="TYXC").files.values()
    assert set(np.unique(labels)) == {5}


def test_status_words_and_times_are_those_of_any_job(lab: Lab) -> None:
    lab.environ.update(PIECE)
    result = lab.run(SegmentationConsumer, field(1))
    assert lab.queue.words() == ["pre-processing", "predicting", "saving-results", "done"]
    times = {"download_time", "preprocess_time", "prediction_time", "postprocess_time", "upload_time"}
    assert times <= result.fields.keys()
    assert result.fields["image_shape"] == "310,430"


def test_an_image_without_cells_is_no_failure(lab: Lab) -> None:
    lab.environ.update(PIECE)
    (labels,) = lab.run(SegmentationConsumer, np.full(SHAPE, 7, np.uint16)).files.values()
    assert labels.shape == SHAPE
    assert not labels.any()


def test_nothing_of_it_is_left_on_the_disk(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    lab.environ.update(PIECE)
    lab.run(SegmentationConsumer, field(1))
    assert list((tmp_path / "temporary").iterdir()) == []


class Emptied(SegmentationConsumer):
    """Somebody's own analysis, on top of a built-in type."""

    def analyze(self, image: Image, job: Job) -> Result:
        found = super().analyze(image, job)
        assert isinstance(found, Labels)
        return Labels(0 * found.array)


class OwnTissue(MesmerConsumer):
    def predict_with(self, *asked: Any, **how: Any) -> list[AnyArray]:
        return [0 * head for head in super().predict_with(*asked, **how)]


class TestOwnAnalyses:
    """What somebody overrides sees all of the image, and is never passed over."""

    @pytest.mark.parametrize("consumer_type", [Emptied, OwnTissue])
    def test_they_are_asked_for_many_frames(self, lab: Lab, consumer_type: type[Consumer]) -> None:
        lab.environ.update(PIECE)
        two = np.stack([[field(1, (60, 60))] * 2] * 2)
        found = lab.run(consumer_type, two, name="cells.npy", dimension_order="BCYX", channels="0,1").files.values()
        assert found
        assert not any(labels.any() for labels in found)

    @pytest.mark.parametrize("consumer_type", [Emptied, OwnTissue])
    def test_they_have_the_limits_of_one_piece(self, lab: Lab, consumer_type: type[Consumer]) -> None:
        lab.environ.update(PIECE)
        image = np.stack([field(1)] * 2)
        reason = lab.run(consumer_type, image, name="cells.npy", dimension_order="CYX", channels="0,1").reason
        assert "allowed are 64 x 64 (MAX_IMAGE_HEIGHT, MAX_IMAGE_WIDTH)" in reason


@pytest.mark.parametrize(
    ("shape", "seen"), [((9, 20, 20), range(9)), ((7, 30, 30), [0, 2, 4, 6]), ((3, 80, 30), [0, 2]), ((2, 80, 90), [0])]
)
def test_models_that_look_at_the_whole_see_the_middle_of_frames(
    lab: Lab, shape: tuple[int, ...], seen: Sequence[int]
) -> None:
    """Of frames of one piece as many as fit into a sample, evenly spread."""
    lab.environ.update(PIECE, MAX_IMAGE_HEIGHT="50", LABEL_DETECT_ENABLED="true")
    lab.models.add("LabelDetection:1", lambda image: np.eye(3, dtype=np.float32)[[2] * len(image)], (None, 60, 60, 1))
    image = np.broadcast_to(np.arange(1, shape[0] + 1, dtype=np.uint16)[:, None, None], shape)
    result = lab.run(ImageFileConsumer, image, "a.npy", dimension_order="TYX")
    assert result.fields["label"] == "2"
    assert {name for name, _ in lab.models.seen} == {"LabelDetection:1", "Cytoplasm:1"}
    tiles = np.concatenate([tiles for name, tiles in lab.models.seen if name == "LabelDetection:1"])
    assert np.unique(tiles[tiles > 0]).tolist() == [frame + 1 for frame in seen]


class TestTwoThreads:
    """Blocks are labelled while later rows are predicted; what ends one ends the other."""

    @pytest.fixture(autouse=True)
    def nobody_is_left(self) -> Iterator[None]:
        yield
        assert not [thread for thread in threading.enumerate() if thread.name == "follower"]

    def test_blocks_are_labelled_while_later_rows_are_predicted(self, lab: Lab, labels: Labelling) -> None:
        def predicted(image: AnyArray) -> Mapping[str, AnyArray]:
            if len(lab.models.seen) == TILES:
                assert labels.began.wait(LONGEST_SECONDS)
            return heads(image)

        lab.models.add("Nuclei:1", predicted, (None, 64, 64, 1))
        assert lab.run(SegmentationConsumer, field(1)).fields["status"] == "done"
        assert len(lab.models.seen) == TILES
        assert len(labels.seen) == labels.all

    def test_planes_are_used_anew_only_when_they_are_labelled(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        """The model is far ahead of the labels."""
        slow = Labelling(POST_PROCESSES["deep_watershed"], 0)
        slow.seconds = 0.02
        monkeypatch.setitem(cast("dict[str, PostProcess]", POST_PROCESSES), "deep_watershed", slow)
        image = np.stack([field(seed, (100, 200)) for seed in range(5)])
        assert_alike(*both(lab, ImageFileConsumer, image, name="cells.npy", dimension_order="TYX"), at_least=5)

    def test_frames_take_the_planes_of_two(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        lab.environ.update(PIECE)
        made = []
        create = Canvas.create.__func__  # type: ignore[attr-defined] # a classmethod's function

        def counted(kind: type[Canvas], path: Path, shape: tuple[int, int], dtype: Any) -> Canvas:
            made.append(np.dtype(dtype))
            return cast("Canvas", create(kind, path, shape, dtype))

        monkeypatch.setattr(Canvas, "create", classmethod(counted))
        image = np.stack([field(seed, (60, 60)) for seed in range(5)])
        assert lab.run(ImageFileConsumer, image, "a.npy", dimension_order="TYX").fields["status"] == "done"
        assert Counter(made) == {np.dtype(np.uint16): 5, np.dtype(np.int32): 5, np.dtype(np.float32): 2 * 2}

    @pytest.mark.parametrize("kind", [PredictionFailed, ServerNotReady, RetryJob, LeaseLost])
    @pytest.mark.parametrize("asked", [1, TILES])
    def test_an_error_of_the_model_server(
        self, lab: Lab, labels: Labelling, kind: type[ConsumerError], asked: int
    ) -> None:
        error = kind("no more")

        def predicted(image: AnyArray) -> Mapping[str, AnyArray]:
            if len(lab.models.seen) >= asked:
                assert asked == 1 or labels.began.wait(LONGEST_SECONDS)
                raise error
            return heads(image)

        lab.models.add("Nuclei:1", predicted, (None, 64, 64, 1))
        with pytest.raises(kind) as raised:
            handle(lab)
        assert raised.value is error
        assert len(labels.seen) < labels.all

    def test_a_step_that_refuses_ends_the_prediction(self, lab: Lab, labels: Labelling) -> None:
        """With the next batch, be it in the middle of a row."""
        ahead, refused, calls = threading.Event(), threading.Event(), count(1)

        def refuse() -> None:
            assert ahead.wait(LONGEST_SECONDS)
            refused.set()
            raise ValueError("no such cells")

        def predicted(image: AnyArray) -> Mapping[str, AnyArray]:
            if next(calls) > 4 * ROW + 1:  # two are under way at most: the rows before were worked on
                ahead.set()
                assert refused.wait(LONGEST_SECONDS)
                time.sleep(0.05)  # until the other thread has heard of it
            return heads(image)

        labels.before[1] = refuse
        lab.models.add("Nuclei:1", predicted, (None, 64, 64, 1))
        assert "no such cells" in lab.run(SegmentationConsumer, field(1)).reason
        assert len(lab.models.seen) < 5 * ROW

    def test_a_step_that_refuses_the_last_block(self, lab: Lab, labels: Labelling) -> None:
        def refuse() -> None:
            raise ValueError("no such cells")

        labels.before[labels.all] = refuse
        assert "no such cells" in lab.run(SegmentationConsumer, field(1)).reason
        assert lab.queue.words()[-2:] == ["pre-processing", "predicting"]

    @pytest.mark.parametrize("planes", range(1, 5))
    def test_a_full_disk(self, lab: Lab, labels: Labelling, monkeypatch: pytest.MonkeyPatch, planes: int) -> None:
        """Of the image, of labels, and of two outputs."""
        left = iter(range(1, planes))

        def room(*_: object) -> None:
            if not next(left, 0):
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("redis_consumer.canvas._make_room", room)
        with pytest.raises(RetryJob, match="No space left on device"):
            handle(lab)
        assert not labels.seen

    @pytest.mark.parametrize("when", ["first", "last but one"])
    def test_a_job_that_was_taken_away(
        self, lab: Lab, labels: Labelling, monkeypatch: pytest.MonkeyPatch, when: str
    ) -> None:
        """What takes minutes must not go on for a job that somebody else has."""
        monkeypatch.setattr("redis_consumer.consumers.work.PROGRESS_SECONDS", 0)
        ended, update = threading.Event(), lab.queue.update
        writers = set()

        class Telling(Follower):
            def __exit__(self, *raised: object) -> None:
                with self._changed:
                    self._given_up = True
                ended.set()
                super().__exit__(*raised)

        def noting(job: Job, fields: Mapping[str, FieldValue]) -> None:
            writers.add(threading.current_thread())
            update(job, fields)

        def taken_away() -> None:
            lab.queue.release(job, Place.FRONT)
            assert ended.wait(LONGEST_SECONDS)

        monkeypatch.setattr(large, "Follower", Telling)
        monkeypatch.setattr(lab.queue, "update", noting)
        number = 1 if when == "first" else labels.all - 1
        labels.before[number] = taken_away
        job = claim(lab)
        with pytest.raises(LeaseLost):
            lab.equipped(SegmentationConsumer).handle(job)
        assert len(labels.seen) == number
        assert writers == {threading.current_thread()}


class TestRefused:
    @pytest.mark.parametrize(
        "fields",
        [
            {"cuts": "2"},
            {"preprocess_function": "normalize,histogram_normalization"},
            {"postprocess_function": "none"},
            {"postprocess_function": "deep_watershed,watershed"},
            {"postprocess_function": "retinanet"},
        ],
    )
    def test_steps_that_need_the_whole_have_the_limits_of_one_piece(self, lab: Lab, fields: dict[str, str]) -> None:
        lab.environ.update(PIECE)
        result = lab.run(ImageFileConsumer, field(1), **fields)
        expected = "has 310 x 430 pixels: allowed are 64 x 64 (MAX_IMAGE_HEIGHT, MAX_IMAGE_WIDTH)"
        assert expected in result.reason

    @pytest.mark.parametrize("base", [ImageFileConsumer, SegmentationConsumer, MesmerConsumer])
    def test_an_analysis_of_ones_own_has_the_limits_of_one_piece(self, lab: Lab, base: type[ImageFileConsumer]) -> None:
        """By blocks it would not be asked, and the job be done all the same."""

        class Mixin:
            def analyze(self, image: AnyArray, job: Job) -> Labels:  # noqa: ARG002 - the contract's parameter
                return Labels(np.zeros(image.shape, np.uint8))

        class Own(Mixin, base):  # type: ignore[misc, valid-type] # a base that is a parameter
            pass

        lab.environ.update(PIECE)
        assert "allowed are 64 x 64 (MAX_IMAGE_HEIGHT" in lab.run(Own, np.stack([field(1), field(2)])).reason

    def test_no_side_may_be_longer_than_the_setting(self, lab: Lab) -> None:
        lab.environ.update(PIECE, MAX_LARGE_SIDE="300")
        assert (
            "310 x 430 pixels: allowed are 300 x 300 (MAX_LARGE_SIDE)" in lab.run(SegmentationConsumer, field(1)).reason
        )

    def test_a_zoom_is_held_against_the_pixels_that_are_allowed(self, lab: Lab) -> None:
        lab.environ.update(PIECE, MAX_IMAGE_PIXELS="200000")
        assert "allowed are 200000 (MAX_IMAGE_PIXELS)" in lab.run(SegmentationConsumer, field(1), scale="2").reason

    def test_no_side_may_be_longer_than_the_setting_when_it_is_zoomed(self, lab: Lab) -> None:
        lab.environ.update(PIECE, MAX_LARGE_SIDE="500")
        expected = "the image would grow to 620 x 860 pixels, allowed are 500 x 500 (MAX_LARGE_SIDE)"
        assert expected in lab.run(SegmentationConsumer, field(1), scale="2").reason
        lab.environ["MAX_LARGE_SIDE"] = "70"
        assert lab.run(SegmentationConsumer, field(1, (60, 64)), scale="2").fields["status"] == "done"

    def test_values_that_are_not_finite(self, lab: Lab) -> None:
        lab.environ.update(PIECE)
        image = np.asarray(field(1), np.float32)
        image[100, 100] = np.nan
        assert "values that are not finite" in lab.run(SegmentationConsumer, image).reason

    def test_a_model_of_other_channels(self, lab: Lab) -> None:
        lab.environ.update(PIECE, NUCLEAR_MODEL="Tissue:2")
        reason = lab.run(SegmentationConsumer, field(1)).reason
        assert "The image has 1 channels, the model Tissue:2 takes 2" in reason

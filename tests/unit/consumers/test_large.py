"""Images that are larger than one piece: the same objects as in one piece, and the same files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.unit.consumers.blockwise import PIECE, SHAPE, field, heads, tissue_heads, with_small_blocks

from redis_consumer.arrays import Labels
from redis_consumer.consumers import ImageFileConsumer, MesmerConsumer, SegmentationConsumer
from redis_consumer.testing.labels import differing_objects

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.consumers.lab import Lab, Result

    from redis_consumer.arrays import AnyArray
    from redis_consumer.consumers import Consumer
    from redis_consumer.job import Job


@pytest.fixture
def lab(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Return a lab in which blocks are small."""
    return with_small_blocks(lab, monkeypatch)


def both(lab: Lab, consumer_type: type[Consumer], image: AnyArray, **fields: Any) -> tuple[Result, Result]:
    """Do a job in one piece and by blocks."""
    whole = lab.run(consumer_type, image, **fields)
    lab.environ.update(PIECE)
    by_blocks = lab.run(consumer_type, image, **fields)
    assert whole.fields["status"] == "done", whole.fields
    assert by_blocks.fields["status"] == "done", by_blocks.fields
    return whole, by_blocks


def assert_alike(whole: Result, by_blocks: Result, at_least: int) -> None:
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

    def test_values_that_are_not_finite(self, lab: Lab) -> None:
        lab.environ.update(PIECE)
        image = np.asarray(field(1), np.float32)
        image[100, 100] = np.nan
        assert "values that are not finite" in lab.run(SegmentationConsumer, image).reason

    def test_a_model_of_other_channels(self, lab: Lab) -> None:
        lab.environ.update(PIECE, NUCLEAR_MODEL="Tissue:2")
        reason = lab.run(SegmentationConsumer, field(1)).reason
        assert "The image has 1 channels, the model Tissue:2 takes 2" in reason

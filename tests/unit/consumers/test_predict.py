from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.unit.consumers.lab import Models, checkers

from redis_consumer.consumers.predict import Predictor
from redis_consumer.errors import JobRejected, LeaseLost, ModelNotFound
from redis_consumer.job import ModelId
from redis_consumer.models.batching import BatchLimits

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.arrays import AnyArray
    from redis_consumer.processing.tiling import PadMode

MODEL = ModelId("M", 1)


def same(image: AnyArray) -> AnyArray:
    return image


def predictor(models: Models, maximum: int = 64, on_progress: Callable[[float], None] = lambda _: None) -> Predictor:
    return Predictor(models.server(), maximum, 128, BatchLimits(), on_progress)


def assert_alike(head: AnyArray, image: AnyArray) -> None:
    """Blending tiles is not exact: neighbouring weights add up to slightly more than 1, as the models know it."""
    np.testing.assert_allclose(np.asarray(head, np.float32), np.asarray(image, np.float32), rtol=4e-3)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.mark.parametrize("ask", ["predict", "whole"])
def test_an_error_between_two_answers_leaves_no_request_under_way(models: Models, ask: str) -> None:
    """Else it would be waited for when the job is over, and nothing stops it any more."""
    models.add("M:1", same, (None, 64, 64, 1))

    def lost(_: float) -> None:
        raise LeaseLost("somebody else's")

    asking = predictor(models, maximum=1, on_progress=lost)
    image = checkers((8, 64, 64, 1))
    with pytest.raises(LeaseLost) as caught:  # keeps the frames alive, as those who handle the error do
        getattr(asking, ask)(MODEL, image)
    assert caught.traceback
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict")]


def test_rows_come_from_top_to_bottom_as_soon_as_they_are_done(models: Models) -> None:
    """An image may be larger than the memory: the rows of the next tiles are read while those above are handed out."""
    models.add("M:1", same, (None, 64, 64, 1))
    image, read_to, done = checkers((2, 640, 100, 1)), (0, 0), (0, 0)

    def read(frame: int, rows: slice) -> AnyArray:
        nonlocal read_to
        read_to = (frame, rows.stop)
        return image[frame, rows]

    result = np.empty_like(image)
    for frame, rows, (values,) in predictor(models, maximum=1).rows(MODEL, image.shape, read):
        assert done <= (frame, rows.start)
        done = (frame, rows.stop)
        # two requests are in flight, of one tile each: a row of tiles has three
        assert (read_to[0] - frame) * 640 + read_to[1] <= rows.stop + 3 * 64
        result[frame, rows] = values
    np.testing.assert_array_equal(result, predictor(models).predict(MODEL, image)[0])


class TestSizes:
    def test_a_model_of_any_size_sees_the_image_whole(self, models: Models) -> None:
        models.add("M:1", same)
        image = checkers((1, 60, 1024, 1))
        (head,) = predictor(models).predict(MODEL, image)
        assert [seen.shape for _, seen in models.seen] == [(1, 60, 1024, 1)]
        np.testing.assert_array_equal(head, image)

    def test_an_axis_that_is_too_long_is_cut_into_tiles_and_joined_again(self, models: Models) -> None:
        models.add("M:1", same)
        image = checkers((1, 16, 1100, 1))
        (head,) = predictor(models).predict(MODEL, image)
        assert {seen.shape[1:] for _, seen in models.seen} == {(16, 512, 1)}
        assert_alike(head, image)

    @pytest.mark.parametrize("shape", [(1, 100, 150, 1), (2, 64, 64, 1), (1, 30, 40, 1), (1, 65, 64, 1)])
    def test_a_model_of_fixed_size_gets_tiles_of_it(self, models: Models, shape: tuple[int, ...]) -> None:
        models.add("M:1", same, (None, 64, 64, 1))
        image = checkers(shape)
        (head,) = predictor(models).predict(MODEL, image)
        assert {seen.shape[1:] for _, seen in models.seen} == {(64, 64, 1)}
        assert_alike(head, image)

    def test_one_fixed_axis_is_no_reason_to_cut_the_other(self, models: Models) -> None:
        models.add("M:1", same, (None, None, 64, 1))
        (head,) = predictor(models).predict(MODEL, checkers((1, 200, 64, 1)))
        assert head.shape == (1, 200, 64, 1)
        assert {seen.shape[1:] for _, seen in models.seen} == {(200, 64, 1)}

    def test_a_model_of_unknown_rank_gets_the_image_as_it_is(self, models: Models) -> None:
        models.add("M:1", same, None)
        (head,) = predictor(models).predict(MODEL, checkers((1, 20, 30, 3)))
        assert head.shape == (1, 20, 30, 3)

    def test_cuts_come_with_a_margin_and_join_without_a_seam(self, models: Models) -> None:
        models.add("M:1", same)
        image = checkers((1, 40, 60, 1))
        (head,) = predictor(models).predict(MODEL, image, cuts=2, field_size=11)
        assert {seen.shape[1:] for _, seen in models.seen} == {(30, 40, 1)}
        assert_alike(head, image)

    @pytest.mark.parametrize(("cuts", "field_size"), [(41, 61), (40, 9999)])
    def test_cuts_that_do_not_fit_are_refused(self, models: Models, cuts: int, field_size: int) -> None:
        models.add("M:1", same)
        with pytest.raises(JobRejected, match=r"'cuts'.*'field_size'"):
            predictor(models).predict(MODEL, checkers((1, 40, 60, 1)), cuts=cuts, field_size=field_size)
        assert not models.seen

    def test_requests_are_no_larger_than_allowed(self, models: Models) -> None:
        models.add("M:1", same, (None, 64, 64, 1))
        predictor(models, maximum=1).predict(MODEL, checkers((1, 250, 250, 1)))
        assert max(len(seen) for _, seen in models.seen) <= 4  # four tiles of 64 count as one of 128


class TestOutputs:
    def test_all_heads_come_back_sorted_by_name(self, models: Models) -> None:
        models.add(
            "M:1",
            lambda image: {
                "b": np.add(image, 1, dtype=np.float32),
                "a": image,
                "c": np.concatenate([image, image], axis=-1),
            },
        )
        heads = predictor(models).predict(MODEL, checkers((2, 8, 9, 1)))
        assert [head.shape for head in heads] == [(2, 8, 9, 1), (2, 8, 9, 1), (2, 8, 9, 2)]
        np.testing.assert_array_equal(heads[1], np.asarray(heads[0], np.float32) + 1)

    def test_progress_ends_at_one(self, models: Models) -> None:
        models.add("M:1", same, (None, 64, 64, 1))
        told: list[float] = []
        predictor(models, 1, told.append).predict(MODEL, checkers((1, 250, 250, 1)))
        assert told == sorted(told)
        assert told[-1] == 1.0


class TestRefusals:
    def test_an_image_with_other_channels_than_the_model_takes(self, models: Models) -> None:
        models.add("M:1", same, (None, 64, 64, 1))
        with pytest.raises(JobRejected, match=r"has 3 channels, the model M:1 takes 1: name them in the field 'chan"):
            predictor(models).predict(MODEL, checkers((1, 64, 64, 3)))

    def test_a_model_of_several_inputs(self, models: Models) -> None:
        models.add("M:1", same, inputs=("image", "mask"))
        with pytest.raises(JobRejected, match=r"The model M:1 has 2 inputs \(image, mask\): expected is one image"):
            predictor(models).predict(MODEL, checkers((1, 8, 8, 1)))

    def test_a_model_of_no_images(self, models: Models) -> None:
        models.add("M:1", same, (None, 32, 3))
        with pytest.raises(JobRejected, match=r"takes 'image' of shape \(None, 32, 3\): expected is \(N, Y, X, C\)"):
            predictor(models).predict(MODEL, checkers((1, 8, 8, 1)))

    @pytest.mark.parametrize(
        "function",
        [lambda image: image[:, ::2, ::2], lambda image: image.mean(axis=(1, 2)), lambda image: image[..., 0]],
        ids=["smaller", "one number", "no channels"],
    )
    def test_a_model_whose_answer_is_no_image_of_that_size(
        self, models: Models, function: Callable[[AnyArray], AnyArray]
    ) -> None:
        models.add("M:1", function)
        with pytest.raises(JobRejected, match=r"The model M:1 answers .* expected is an image of the same size"):
            predictor(models).predict(MODEL, checkers((1, 8, 8, 1)))

    def test_a_model_that_is_not_there(self, models: Models) -> None:
        models.add("M:1", same)
        with pytest.raises(ModelNotFound, match="M:2"):
            predictor(models).predict(ModelId("M", 2), checkers((1, 8, 8, 1)))


class TestWhole:
    """Models that predict boxes, or one thing of a whole frame."""

    def test_outputs_of_any_shape_come_back_sorted_by_name(self, models: Models) -> None:
        models.add("M:1", lambda image: {"b": image.sum((1, 2)), "a": image[:, :3, :1, 0]})
        image = checkers((2, 2000, 40, 1))
        a, b = predictor(models).whole(MODEL, image)
        np.testing.assert_array_equal(a, image[:, :3, :1, 0])
        np.testing.assert_allclose(np.asarray(b, np.float32), image.sum((1, 2)))
        assert {seen.shape[1:] for _, seen in models.seen} == {(2000, 40, 1)}

    @pytest.mark.parametrize(
        ("shape", "size"),
        [((None, 16, 24, 1), (16, 24)), ((None, None, None, 1), (30, 40)), ((None, 16, None, 1), (16, 40))],
    )
    def test_an_image_is_fitted_to_what_the_model_takes(
        self, models: Models, shape: tuple[int | None, ...], size: tuple[int, int]
    ) -> None:
        models.add("M:1", same, shape)
        fitting = predictor(models).fitted(MODEL, checkers((1, 30, 40, 1)))
        assert (fitting.shape, fitting.dtype) == ((1, *size, 1), np.dtype(np.float32))
        assert predictor(models).whole(MODEL, fitting)[0].shape == fitting.shape

    def test_frames_of_another_size_are_refused(self, models: Models) -> None:
        models.add("M:1", same, (None, 16, 24, 1))
        with pytest.raises(JobRejected, match="The image has 30 x 40 pixels, the model M:1 takes 16 x 24"):
            predictor(models).whole(MODEL, checkers((1, 30, 40, 1)))


@pytest.mark.parametrize("pad_mode", ["reflect", "constant"])
def test_the_caller_says_what_surrounds_the_image(models: Models, pad_mode: PadMode) -> None:
    models.add("M:1", same, (None, 32, 32, 1))
    predictor(models).predict(MODEL, 1 + checkers((1, 40, 40, 1)), pad_mode=pad_mode)
    assert (models.seen[0][1][0, 0, 0] == 0).all() == (pad_mode == "constant")

"""The exam of the model server's port.

Subclass `ModelServerExam` and give a fixture `server` that serves the two versions of `exam_models`, however your
server comes by them::

    class TestMine(ModelServerExam):
        @pytest.fixture
        def server(self): ...
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.errors import InvalidModelInput, ModelNotFound
from redis_consumer.job import ModelId
from redis_consumer.models.base import ModelServer, TensorSpec
from redis_consumer.models.memory import MemoryModel

if TYPE_CHECKING:
    from collections.abc import Callable

    from redis_consumer.arrays import AnyArray

EXAM = ModelId("Exam")
EXAM_INPUT = TensorSpec("image", np.dtype(np.float32), (None, None, None, 1))
EXAM_VERSIONS = (1, 2)


def exam_models() -> dict[ModelId, MemoryModel]:
    """Return what is to be served: ``doubled`` is the image times two, ``bright`` the image plus the version."""
    return {ModelId(EXAM.name, v): MemoryModel([EXAM_INPUT], _exam_function(v)) for v in EXAM_VERSIONS}


class ModelServerExam:
    """What every `ModelServer` promises."""

    @pytest.fixture
    def server(self) -> ModelServer:
        """Override: a server of `exam_models`."""
        raise NotImplementedError

    def test_describes_its_inputs(self, server: ModelServer) -> None:
        """Name, dtype and shape, free sizes as None."""
        assert list(server.describe(EXAM)) == [EXAM_INPUT]

    def test_gives_every_output_sorted_by_name(self, server: ModelServer) -> None:
        """In the dtype and with the values that the model made."""
        image = _image(2)
        outputs = server.predict(EXAM, {"image": image})
        assert list(outputs) == ["bright", "doubled"]
        np.testing.assert_array_equal(outputs["doubled"], image * 2)
        assert outputs["doubled"].dtype == np.float32

    @pytest.mark.parametrize("version", [None, *EXAM_VERSIONS])
    def test_answers_with_the_version_asked_for_or_the_latest(self, server: ModelServer, version: int | None) -> None:
        """The highest version is the latest."""
        image = _image(1)
        outputs = server.predict(ModelId(EXAM.name, version), {"image": image})
        np.testing.assert_array_equal(outputs["bright"], image + (version or max(EXAM_VERSIONS)))

    @pytest.mark.parametrize("dtype", ["u1", "u2", "i8", "f2", "f8", ">f4", "?"])
    def test_casts_inputs_to_its_dtype(self, server: ModelServer, dtype: str) -> None:
        """Whatever numbers come, of either byte order."""
        image = (_image(1) * 10).astype(dtype)
        outputs = server.predict(EXAM, {"image": image})
        np.testing.assert_array_equal(outputs["doubled"], image.astype(np.float32) * 2)

    def test_takes_any_layout_in_memory(self, server: ModelServer) -> None:
        """Strided and transposed views, read-only arrays."""
        image = _image(3)[::2, ::-1].transpose(0, 2, 1, 3)
        image.flags.writeable = False
        np.testing.assert_array_equal(server.predict(EXAM, {"image": image})["doubled"], image * 2)

    def test_keeps_values_that_are_no_numbers(self, server: ModelServer) -> None:
        """NaN and infinity are the model's business."""
        image = _image(1)
        image[0, 0, :2, 0] = np.nan, np.inf
        np.testing.assert_array_equal(server.predict(EXAM, {"image": image})["doubled"], image * 2)

    def test_outputs_belong_to_the_caller(self, server: ModelServer) -> None:
        """They may be written to, and writing to them changes neither the input nor the next answer."""
        image = _image(1)
        kept = image.copy()
        server.predict(EXAM, {"image": image})["doubled"].fill(-1)
        np.testing.assert_array_equal(image, kept)
        np.testing.assert_array_equal(server.predict(EXAM, {"image": image})["doubled"], kept * 2)

    @pytest.mark.parametrize("model", [ModelId("Nothing"), ModelId(EXAM.name, 7), ModelId(EXAM.name, 0)])
    def test_says_that_a_model_or_version_is_not_there(self, server: ModelServer, model: ModelId) -> None:
        """Version 0 is a version like any other, not the latest; the text names the model."""
        with pytest.raises(ModelNotFound, match=str(model)):
            server.describe(model)
        with pytest.raises(ModelNotFound, match=str(model)):
            server.predict(model, {"image": _image(1)})

    @pytest.mark.parametrize("names", [[], ["img"], ["image", "more"]])
    def test_refuses_wrong_names(self, server: ModelServer, names: list[str]) -> None:
        """The text names the right one."""
        with pytest.raises(InvalidModelInput, match="image"):
            server.predict(EXAM, {name: _image(1) for name in names})

    def test_refuses_a_wrong_rank(self, server: ModelServer) -> None:
        """The text names both shapes."""
        with pytest.raises(InvalidModelInput, match=r"\(5, 6, 1\).*\(\?, \?, \?, 1\)"):
            server.predict(EXAM, {"image": _image(1)[0]})

    @pytest.mark.parametrize("array", [np.full((1, 5, 6, 1), "1"), np.ones((1, 5, 6, 1), np.complex64)])
    def test_refuses_what_is_no_real_number(self, server: ModelServer, array: AnyArray) -> None:
        """Text is not read as numbers, and nothing is cut off a complex one."""
        with pytest.raises(InvalidModelInput, match="float32"):
            server.predict(EXAM, {"image": array})

    def test_serves_several_threads(self, server: ModelServer) -> None:
        """Each gets the answer to its own question."""
        images = [_image(1) + n for n in range(8)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda image: server.predict(EXAM, {"image": image}), images))
        for image, answer in zip(images, answers, strict=True):
            np.testing.assert_array_equal(answer["doubled"], image * 2)


def _exam_function(version: int) -> Callable[[dict[str, AnyArray]], dict[str, AnyArray]]:
    def run(inputs: dict[str, AnyArray]) -> dict[str, AnyArray]:
        image = inputs["image"].astype(np.float32)
        return {"doubled": image * 2, "bright": image + np.float32(version)}

    return run


def _image(batch: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.arange(batch * 30, dtype=np.float32).reshape(batch, 5, 6, 1)

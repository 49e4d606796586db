"""What people copy from docs/howto/custom-consumer.md runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from tests.compat.test_custom_consumer import Hashes
from tests.howto import howto_blocks
from tests.unit.consumers.lab import Lab

from redis_consumer.consumers.plugins import find_consumer
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.arrays import AnyArray, Image

FUNCTION, CLASS, EVERYTHING = range(3)
SIZE, DISCS = 120, 4


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    for model in ("NuclearSegmentation:6", "Membranes:3"):
        made.models.add(model, lambda image: {"semantic_0": smooth(image), "semantic_1": smooth(image)})
    made.models.add("Mine:1", smooth)
    return made


def smooth(image: AnyArray) -> AnyArray:
    mean: Image = uniform_filter(np.asarray(image, np.float32), (0, 9, 9, 0), mode="nearest")
    heads: AnyArray = np.clip(mean - np.float32(0.3), 0, None)
    return heads


def field_of_discs() -> AnyArray:
    rows, columns = np.mgrid[:SIZE, :SIZE] % (SIZE // 2) - SIZE // 4
    dome: AnyArray = np.sqrt(np.clip(1 - (rows**2 + columns**2) / 15**2, 0, 1)) * 1000
    return dome.astype(np.uint16)


@pytest.mark.parametrize(
    ("number", "name", "entry"),
    [
        (FUNCTION, "find_nuclei", "cells_feature_0.tif"),
        (CLASS, "Membranes", "cells_feature_0.tif"),
        (EVERYTHING, "MyConsumer", "result_feature_0.tif"),
    ],
)
def test_each_rung_does_a_job(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, name: str, entry: str
) -> None:
    module = f"howto_{number}"
    (tmp_path / f"{module}.py").write_text(howto_blocks("python")[number])
    monkeypatch.syspath_prepend(tmp_path)
    consumer_type = find_consumer(f"{module}:{name}", {})
    job = lab.claim(
        input_file_name=lab.put(field_of_discs(), "cells.tif"),
        original_name="cells.tif",
        model_name="Mine",
        model_version="1",
    )
    redis: Any = Hashes(lab.broker)
    work_off(lab.queue, lab.equipped(consumer_type, redis).handle, job)
    fields = lab.broker.jobs[job.key]
    assert fields["status"] == "done", fields
    ((found, array),) = lab.files(fields).items()
    assert found == entry
    assert array.shape[-2:] == (SIZE, SIZE)
    if number != EVERYTHING:  # it saves the prediction as it is
        assert np.unique(array).size - 1 == DISCS

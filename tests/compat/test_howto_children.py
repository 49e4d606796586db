"""What people copy from docs/howto/children.md runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from tests.howto import howto_blocks
from tests.unit.consumers.batch import Expiries
from tests.unit.consumers.lab import Lab

from redis_consumer import utils
from redis_consumer.consumers.plugins import find_consumer
from redis_consumer.queues.memory import MemoryJobQueue
from redis_consumer.worker import work_off

if TYPE_CHECKING:
    from redis_consumer.job import Job

IMAGE = np.arange(31 * 20, dtype=np.uint16).reshape(31, 20)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def quarters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (code,) = howto_blocks("python", "children")
    (tmp_path / "quarters.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    return find_consumer("quarters:Quarters", {})


def work_off_children(lab: Lab, *, failing: str = "") -> list[dict[str, str]]:
    """Segment every quarter: double it, that is."""
    lane, seen = MemoryJobQueue(lab.broker, queue="segmentation"), []

    def handle(job: Job) -> str:
        seen.append(dict(job.fields))
        if job.fields["original_name"] == failing:
            raise ValueError("blurred")
        folder = lab.folder / job.key.rpartition(":")[2]
        image = tifffile.imread(lab.storage.download(job.fields["input_file_name"], folder))
        files = utils.save_numpy_array(2 * image[..., np.newaxis], name="x", output_dir=folder)
        lane.update(job, {"status": "done", "output_file_name": lab.storage.upload(utils.zip_files(files, folder)).key})
        return "done"

    while job := lane.claim(timeout=0):
        work_off(lane, handle, job)
    return seen


def test_four_quarters_make_a_whole(lab: Lab, quarters: Any) -> None:
    redis = Expiries()
    consumer = lab.equipped(quarters, redis)
    job = lab.claim(input_file_name=lab.put(IMAGE, "cells.tif"), original_name="cells.tif", scale="0.5")
    work_off(lab.queue, consumer.handle, job)
    assert lab.broker.jobs[job.key]["status"] == "waiting"
    children = work_off_children(lab)
    assert [child["original_name"] for child in children] == [f"quarter_{place}.tif" for place in range(4)]
    assert {child["scale"] for child in children} == {"0.5"}
    woken = lab.queue.claim(timeout=0)
    assert woken
    work_off(lab.queue, consumer.handle, woken)
    fields = lab.broker.jobs[job.key]
    assert fields["status"] == "done", fields
    ((_, labels),) = lab.files(fields).items()
    assert np.array_equal(labels, 2 * IMAGE)
    assert set(redis.seconds.values()) == {3600}
    left = [path for path in Path(lab.folder, "bucket/output").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [Path(fields["output_file_name"]).name]


def test_a_quarter_that_failed_is_named(lab: Lab, quarters: Any) -> None:
    consumer = lab.equipped(quarters, Expiries())
    job = lab.claim(input_file_name=lab.put(IMAGE, "cells.tif"))
    work_off(lab.queue, consumer.handle, job)
    work_off_children(lab, failing="quarter_2.tif")
    woken = lab.queue.claim(timeout=0)
    assert woken
    work_off(lab.queue, consumer.handle, woken)
    assert lab.broker.jobs[job.key]["reason"] == "quarter_2.tif: ValueError: blurred"

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from obstore.store import MemoryStore
from tests.acceptance.bench import tiff
from tests.chaos.ledger import name_of, picture
from tests.chaos.results import wrong_results

JOB = f"chaos:{name_of(7)}:x"
ENTRY = "job-000007_feature_0.tif"
FIELDS = {"status": "done", "output_file_name": "output/a.zip", "output_url": "http://s3/bucket/output/a.zip"}


def store(number: int = 7, entry: str = ENTRY) -> MemoryStore:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(entry, tiff(picture(number).astype(np.float32)))
    found = MemoryStore()
    found.put("output/a.zip", file.getvalue())
    return found


def test_a_jobs_own_image_is_right() -> None:
    assert list(wrong_results(store(), {JOB: FIELDS})) == []


@pytest.mark.parametrize(
    ("found", "fields", "words"),
    [
        (store(number=9), {}, "not its own image"),
        (store(entry="other_feature_0.tif"), {}, "holds other_feature_0.tif"),
        (MemoryStore(), {}, "cannot be read"),
        (store(), {"output_url": "http://s3/bucket/output/b.zip"}, "is not about"),
    ],
)
def test_what_is_wrong_is_told(found: MemoryStore, fields: dict[str, str], words: str) -> None:
    ((key, what),) = wrong_results(found, {JOB: {**FIELDS, **fields}})
    assert key == JOB
    assert words in what


def test_who_failed_has_no_result() -> None:
    assert list(wrong_results(MemoryStore(), {JOB: {"status": "failed"}})) == []

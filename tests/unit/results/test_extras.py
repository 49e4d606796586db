from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import numpy as np
import pytest

from redis_consumer.arrays import Labels, Tracks
from redis_consumer.errors import MissingExtra, RetryJob
from redis_consumer.results import extras
from redis_consumer.results.extras import FILES, PROVENANCE, WRITERS, Seen, check_packages, write_extras
from redis_consumer.settings.schema import ExtraOutput

if TYPE_CHECKING:
    from pathlib import Path

SEEN = Seen(np.ones((1, 4, 5, 1), np.float32))
LABELS = Labels(np.ones((1, 4, 5, 1), np.int32))
TRACKS = Tracks(np.ones((1, 4, 5), np.int32))


def test_every_word_of_the_setting_has_a_file_and_tracks_have_them_all() -> None:
    words = set(get_args(ExtraOutput))
    assert words == FILES.keys()
    assert len(set(FILES.values())) == len(FILES)
    assert WRITERS[Tracks].keys() == words - {PROVENANCE}
    assert WRITERS[Labels].keys() == words - {PROVENANCE, "tracks-ctc", "tracks-trk"}


def test_only_what_is_wanted_is_written(tmp_path: Path) -> None:
    written = write_extras(LABELS, SEEN, ["geojson", "table-csv"], tmp_path / "new")
    assert written == {
        "geojson": tmp_path / "new/outlines.geojson",
        "table-csv": tmp_path / "new/objects.csv",
    }
    assert sorted((tmp_path / "new").iterdir()) == sorted(written.values())


def test_an_array_that_is_no_label_image_has_none(tmp_path: Path) -> None:
    assert write_extras(SEEN.pixels, SEEN, FILES, tmp_path) == {}


@pytest.mark.parametrize("kind", sorted(FILES.keys() - {PROVENANCE, "labels-zarr", "tracks-ctc"}))
def test_a_file_that_cannot_be_written_is_not_passed_over(tmp_path: Path, kind: ExtraOutput) -> None:
    (tmp_path / FILES[kind]).mkdir()
    with pytest.raises(RetryJob, match="cannot write the result"):
        write_extras(TRACKS, SEEN, [kind], tmp_path)


def test_a_missing_package_is_named_before_the_first_job(monkeypatch: pytest.MonkeyPatch) -> None:
    check_packages(FILES)
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    check_packages(set(FILES) - {"table-parquet"})
    with pytest.raises(MissingExtra, match=r"'table-parquet' needs the extra 'outputs': pip install"):
        check_packages(FILES)

from __future__ import annotations

import zipfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from redis_consumer.archives import Made
from redis_consumer.arrays import Labels
from redis_consumer.consumers import work as work_module
from redis_consumer.consumers.work import Work, is_zarr
from redis_consumer.errors import JobRejected, LeaseLost, ObjectNotFound
from redis_consumer.images import ImageLimits
from redis_consumer.job import Status
from redis_consumer.queues.base import Place
from redis_consumer.results.ngff import write_labels_zarr
from redis_consumer.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.consumers.lab import Lab

    from redis_consumer.storage.ranges import RangeFile


class Clock:
    """Stands in for the module `time` in there."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(work_module, "time", clock)
    return clock


_benches = ExitStack()


@pytest.fixture(autouse=True)
def _cleared() -> Iterator[None]:
    yield
    _benches.close()


def bench(lab: Lab, **fields: str) -> Work:
    return _benches.enter_context(Work(lab.claim(**fields), lab.queue, lab.storage))


class TestStages:
    def test_each_stage_is_one_write_with_the_seconds_of_the_one_before(self, lab: Lab, clock: Clock) -> None:
        work = bench(lab)
        for seconds, stage in [(1, Status.PRE_PROCESSING), (2, Status.PREDICTING), (3, Status.POST_PROCESSING)]:
            clock.now += seconds
            work.enter(stage)
        assert lab.queue.writes == [
            {"status": "pre-processing", "download_time": 1},
            {"status": "predicting", "preprocess_time": 2},
            {"status": "post-processing", "prediction_time": 3},
        ]

    def test_a_stage_that_is_entered_twice_adds_up(self, lab: Lab, clock: Clock) -> None:
        work = bench(lab)
        for stage in (Status.PREDICTING, Status.POST_PROCESSING, Status.PREDICTING, Status.SAVING_RESULTS):
            clock.now += 1
            work.enter(stage)
        assert lab.queue.writes[1]["prediction_time"] == 1
        assert lab.queue.writes[-1]["prediction_time"] == 2

    def test_the_stage_that_runs_is_not_begun_again(self, lab: Lab, clock: Clock) -> None:
        work = bench(lab)
        work.enter(Status.PREDICTING)
        clock.now += 1
        work.enter(Status.PREDICTING)
        assert lab.queue.words() == ["predicting"]

    def test_a_stage_without_a_word_leaves_its_fields_to_the_next(self, lab: Lab, clock: Clock) -> None:
        work = Work(lab.claim(), lab.queue, lab.storage, unspoken={Status.POST_PROCESSING})
        work.enter(Status.PREDICTING)
        clock.now += 3
        work.enter(Status.POST_PROCESSING)
        clock.now += 4
        work.enter(Status.SAVING_RESULTS)
        assert lab.queue.words() == ["predicting", "saving-results"]
        assert lab.queue.writes[-1] == {"status": "saving-results", "prediction_time": 3, "postprocess_time": 4}

    def test_notes_go_with_the_next_stage(self, lab: Lab, clock: Clock) -> None:
        work = bench(lab)
        assert clock.now
        work.note(predict_retries=2)
        assert lab.queue.writes == []
        work.enter(Status.PREDICTING, {"extra": "yes"})
        assert lab.queue.writes == [{"status": "predicting", "download_time": 0, "predict_retries": 2, "extra": "yes"}]

    def test_who_lost_the_lease_learns_of_it(self, lab: Lab) -> None:
        work = bench(lab)
        lab.queue.release(work.job, Place.BACK)
        with pytest.raises(LeaseLost):
            work.enter(Status.PREDICTING)

    def test_at_the_latest_before_results_are_stored(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lab.queue, "announce", lambda *_: None)  # whose answer nobody has heard yet
        work = bench(lab)
        lab.queue.release(work.job, Place.BACK)
        work.enter(Status.POST_PROCESSING)
        with pytest.raises(LeaseLost):
            work.enter(Status.SAVING_RESULTS)


def test_progress_is_written_in_percent_and_at_most_once_a_second(lab: Lab, clock: Clock) -> None:
    work = bench(lab)
    for pause, done in [(0, 0.1), (0.5, 0.2), (0.6, 0.329), (0.9, 0.9), (0.1, 0.99)]:
        clock.now += pause
        work.progress(done)
    assert lab.queue.writes == [{"progress": 10}, {"progress": 32}, {"progress": 99}]


def test_the_end_of_progress_costs_no_write_of_its_own(lab: Lab) -> None:
    work = bench(lab)
    work.progress(1.0)
    assert lab.queue.writes == []
    work.enter(Status.POST_PROCESSING)
    assert [(write["status"], write["progress"]) for write in lab.queue.writes] == [("post-processing", 100)]


class TestLoad:
    def test_the_image_is_read_as_the_job_describes_it(self, lab: Lab) -> None:
        key = lab.put(np.zeros((5, 6, 2), np.uint8), "a.npy")
        work = bench(lab, input_file_name=key, dimension_order="YXC")
        assert work.load(Settings()).pixels.shape == (1, 5, 6, 2)
        assert lab.queue.words() == ["pre-processing"]

    def test_the_settings_limit_its_size(self, lab: Lab) -> None:
        work = bench(lab, input_file_name=lab.put(np.zeros((5, 6), np.uint8), "a.tif"))
        with pytest.raises(JobRejected, match=r"has 5 x 6 pixels: allowed are 4 x 2048 \(MAX_IMAGE_HEIGHT"):
            work.load(Settings(max_image_height=4))

    def test_a_missing_object_is_named(self, lab: Lab) -> None:
        with pytest.raises(ObjectNotFound, match=r"uploads/absent\.tif"):
            bench(lab, input_file_name="uploads/absent.tif").load(Settings())

    @pytest.mark.parametrize("name", ["", " "])
    def test_a_missing_field_is_named(self, lab: Lab, name: str) -> None:
        with pytest.raises(JobRejected, match="The field 'input_file_name' is missing or blank"):
            bench(lab, input_file_name=name).load(Settings())


class TestOpen:
    @pytest.mark.parametrize("large", [False, True])
    def test_the_image_is_the_same_by_ranges(self, lab: Lab, monkeypatch: pytest.MonkeyPatch, *, large: bool) -> None:
        monkeypatch.setattr(work_module, "LARGE_BYTES", 0 if large else 2**25)
        image = np.arange(24, dtype=np.uint16).reshape(4, 6)
        work = bench(lab, input_file_name=lab.put(image, "a.tif"))
        with work.open(ImageLimits(), by_ranges=True) as opened:
            np.testing.assert_array_equal(opened.read().stored[0, ..., 0], image)
        assert not (work.folder / "input").exists()

    def test_of_a_large_file_only_what_is_read_travels(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, most in (("redis_consumer.storage.object_store.START_BYTES", 2**12), ("LARGE_BYTES", 0)):
            monkeypatch.setattr(*(name, most) if "." in name else (work_module, name, most))
        pages = np.random.default_rng(1).integers(0, 2**16, (4, 400, 500), np.uint16)
        work = bench(lab, input_file_name=lab.put(pages, "a.tif"), dimension_order="CYX")
        files: list[RangeFile] = []
        open_ = lab.storage.open

        @contextmanager
        def watched(key: str) -> Iterator[RangeFile]:
            with open_(key) as file:
                files.append(file)
                yield file

        monkeypatch.setattr(lab.storage, "open", watched)
        with work.open(ImageLimits(), by_ranges=True) as opened:
            assert files[0].fetched < pages.nbytes / 8
            (block,) = opened.blocks(0, 2)
            np.testing.assert_array_equal(block[2], pages[2])
        assert files[0].fetched < pages.nbytes / 2

    @pytest.mark.parametrize("by_ranges", [False, True])
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_an_ome_zarr_is_a_folder_of_objects(self, lab: Lab, slash: str, *, by_ranges: bool) -> None:
        array = np.arange(4 * 6).reshape(1, 4, 6, 1)
        write_labels_zarr(Labels(array), lab.folder / "bucket/uploads/x.ome.zarr")
        work = bench(lab, input_file_name=f"uploads/x.ome.zarr/feature_0{slash}", dimension_order="XYB")
        with work.open(ImageLimits(), by_ranges=by_ranges) as opened:
            np.testing.assert_array_equal(opened.read().stored, array)
        assert work.input is None
        missing = bench(lab, input_file_name="uploads/missing.zarr")
        with pytest.raises(JobRejected, match=r"'missing\.zarr' cannot be read: it is no OME-Zarr"):
            missing.load(Settings())

    @pytest.mark.parametrize("by_ranges", [False, True])
    def test_errors_name_the_image_as_the_user_knows_it(self, lab: Lab, *, by_ranges: bool) -> None:
        work = bench(lab, input_file_name=lab.put(b"no image", "a.tif"), original_name="my/cells.tif")
        with pytest.raises(JobRejected, match=r"'cells\.tif'"), work.open(ImageLimits(), by_ranges=by_ranges):
            pass


class TestDeliver:
    def test_the_result_is_uploaded_and_its_fields_wait_for_the_settle(self, lab: Lab, clock: Clock) -> None:
        work = bench(lab)
        work.enter(Status.SAVING_RESULTS)
        work.note(remark="fine")
        clock.now += 2
        path = lab.folder / "labels.tif"
        path.write_bytes(b"labels")
        assert work.deliver([(str(path), "cells_feature_0.tif")]) == "done"
        assert lab.broker.jobs[work.job.key]["status"] == "saving-results"  # nobody sees half a result
        lab.queue.settle(work.job, "done", {})
        fields = lab.broker.jobs[work.job.key]
        assert (fields["status"], fields["progress"], fields["total_jobs"]) == ("done", "100", "1")
        assert (fields["upload_time"], fields["remark"]) == ("2.0", "fine")
        assert fields["output_file_name"].startswith("output/")
        assert fields["output_url"] == lab.storage.url(fields["output_file_name"])
        assert Path(lab.folder, "bucket", fields["output_file_name"]).is_file()

    @pytest.mark.parametrize("large", [False, True])
    def test_a_small_result_that_is_on_no_disk_stays_so(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch, *, large: bool
    ) -> None:
        monkeypatch.setattr(work_module, "SMALL_BYTES", 5 if large else 6)
        made = [(Made(3, lambda: [b"ab", b"c"]), "a.tif"), (Made(3, lambda: [b"def"]), "b.tif")]
        work = bench(lab)
        fields = work.store(made)
        assert ("folder" in vars(work)) is large
        with zipfile.ZipFile(Path(lab.folder, "bucket", str(fields["output_file_name"]))) as archive:
            assert [archive.read(name) for name in archive.namelist()] == [b"abc", b"def"]

    def test_a_file_among_them_needs_the_disk(self, lab: Lab) -> None:
        path = lab.folder / "labels.tif"
        path.write_bytes(b"labels")
        fields = bench(lab).store([(Made(3, lambda: [b"abc"]), "a.tif"), (str(path), "b.tif")])
        with zipfile.ZipFile(Path(lab.folder, "bucket", str(fields["output_file_name"]))) as archive:
            assert archive.namelist() == ["a.tif", "b.tif"]

    def test_no_two_results_share_a_name(self, lab: Lab) -> None:
        (lab.folder / "labels.tif").touch()
        names = set()
        for _ in range(2):
            work = bench(lab)
            lab.queue.settle(work.job, work.deliver([(str(lab.folder / "labels.tif"), "a.tif")]), {})
            names.add(lab.broker.jobs[work.job.key]["output_file_name"])
        assert len(names) == 2


def test_the_folder_goes_with_the_context(lab: Lab) -> None:
    with Work(lab.claim(), lab.queue, lab.storage) as work:
        (work.folder / "x").touch()
    assert not work.folder.exists()


def test_there_is_no_folder_any_more_after_the_context(lab: Lab) -> None:
    with Work(lab.claim(), lab.queue, lab.storage) as work:
        pass
    with pytest.raises(RuntimeError, match="is gone"):
        _ = work.folder


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"original_name": "plate 1/a.tif", "input_file_name": "uploads/1.tif"}, "plate 1/a.tif"),
        ({"original_name": " ", "input_file_name": "uploads/1.tif"}, "1.tif"),
        ({"input_file_name": "uploads/b/1.tif"}, "1.tif"),
    ],
)
def test_results_carry_the_users_name_or_the_keys(lab: Lab, fields: dict[str, str], name: str) -> None:
    assert bench(lab, **fields).name == name


@pytest.mark.parametrize("original", ["my cells.tif", "plate/a b/my cells.tif", "../../my cells.tif"])
def test_errors_name_the_image_as_the_user_knows_it(lab: Lab, original: str) -> None:
    work = bench(lab, input_file_name=lab.put(b"no image", "5f0c.tif"), original_name=original)
    with pytest.raises(JobRejected, match=r"^The image 'my cells\.tif' cannot be read"):
        work.load(Settings.from_environ({}))


@pytest.mark.parametrize(
    ("key", "zarr"),
    [
        ("uploads/x.zarr", True),
        ("uploads/x.ome.zarr/", True),
        ("uploads/x.ZARR/0", True),
        ("https://example.org/bucket/uploads/x.zarr/labels/cells", True),
        ("uploads/x.zarr.zip", False),
        ("uploads/x.zarr/picture.png", False),
        ("uploads/zarr", False),
        (".", False),
    ],
)
def test_what_is_an_ome_zarr_by_its_name(key: str, *, zarr: bool) -> None:
    assert is_zarr(key) is zarr

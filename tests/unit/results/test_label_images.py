"""Label images too large for the memory: the files of what is in memory, byte for byte, and read block by block."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skimage as ski

from redis_consumer.arrays import Labels
from redis_consumer.processing import planes
from redis_consumer.results import label_images, ngff, outlines, tables
from redis_consumer.results.extras import FILES, WRITERS, Seen, write_extras
from redis_consumer.results.label_images import LabelPlanes, last_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy.typing as npt

    from redis_consumer.arrays import AnyArray, Image
    from redis_consumer.processing.planes import Plane, Rectangle

SIDE = 32
SHAPE = (230, 310)
STRIP = 7
LARGEST = max((SIDE + 2) ** 2, STRIP * SHAPE[1])


@dataclass
class Watching:
    """A plane that remembers how much of it was asked for, and was in use, at once, and how often it was read."""

    array: AnyArray
    asked: list[int] = field(default_factory=list)
    in_use: int = 0
    most_in_use: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def __getitem__(self, place: Rectangle) -> npt.NDArray[Any]:
        part = self.array[place]
        assert part.shape == tuple(span.stop - span.start for span in place), "within the plane"
        given = part.copy()
        self.asked.append(given.size)
        self.in_use += given.size
        self.most_in_use = max(self.most_in_use, self.in_use)
        weakref.finalize(given, self._freed, given.size)
        return given

    def _freed(self, size: int) -> None:
        self.in_use -= size

    def times_read(self) -> float:
        return sum(self.asked) / self.array.size


@dataclass(frozen=True)
class Strips:
    """An image that is had by strips of rows."""

    array: AnyArray

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        frames, rows, columns, channels = self.array.shape
        return frames, rows, columns, channels

    def blocks(self, frame: int, channel: int) -> Iterator[tuple[slice, slice, npt.NDArray[Any]]]:
        for top in range(0, self.sizes[1], STRIP):
            rows, columns = slice(top, min(top + STRIP, self.sizes[1])), slice(0, self.sizes[2])
            yield rows, columns, self.array[frame, rows, columns, channel]


def blobs(seed: int, *, density: float = 0.55) -> npt.NDArray[np.int32]:
    """Return objects of all sizes, with holes and in pieces, in no order of their places."""
    rng = np.random.default_rng(seed)
    labels = ski.measure.label(rng.random(SHAPE) < density, connectivity=1)
    ids = rng.permutation(labels.max() // 2 + 1) + 1
    return np.where(labels > 0, ids[labels // 2], 0).astype(np.int32)


KINDS: dict[str, Callable[[int], npt.NDArray[np.int32]]] = {
    "scattered": blobs,
    "one sponge": lambda seed: np.asarray(blobs(seed, density=0.75) > 0, np.int32),
    "nothing": lambda _: np.zeros(SHAPE, np.int32),
    "nearly nothing": lambda _: np.pad(np.full((1, 1), 70_000, np.int32), ((SHAPE[0] - 1, 0), (0, SHAPE[1] - 1))),
}


def make_small(patch: pytest.MonkeyPatch) -> None:
    for module in (label_images, outlines):
        patch.setattr(module, "blocks", lambda shape: planes.blocks(shape, SIDE))
    patch.setattr(ngff, "SIDE", SIDE)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def image_of(frames: int) -> Image:
    return np.random.default_rng(4).integers(0, 2**16, (frames, *SHAPE, 2)).astype(np.float32)


@pytest.mark.parametrize("frames", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_files_are_those_of_one_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, frames: int) -> None:
    monkeypatch.setattr(ngff, "CHUNK", SIDE)
    monkeypatch.setattr(ngff, "SMALLEST", 8)
    labels = np.stack([[KINDS[kind](2 * frame + c) for c in range(2)] for frame in range(frames)])
    names, image, wanted = ("cells", "nuclei"), image_of(frames), WRITERS[LabelPlanes]
    one_piece = Labels(np.moveaxis(labels, 1, -1), names)
    write_extras(one_piece, Seen(image), wanted, tmp_path / "one piece")
    make_small(monkeypatch)
    watched = [[Watching(plane) for plane in of_frame] for of_frame in labels]
    by_blocks = LabelPlanes(watched, names)
    write_extras(by_blocks, Seen(Strips(image.astype(np.uint16))), wanted, tmp_path / "blocks")
    expected, found = files_of(tmp_path / "one piece"), files_of(tmp_path / "blocks")
    assert expected.keys() == found.keys() >= {FILES["geojson"], FILES["table-csv"], FILES["table-parquet"]}
    assert [name for name in expected if expected[name] != found[name]] == []
    assert by_blocks.count() == one_piece.count()
    assert by_blocks.shape == one_piece.shape
    for plane in (plane for of_frame in watched for plane in of_frame):
        assert max(plane.asked) <= LARGEST, "a block and a pixel around it, or a strip"
        assert plane.most_in_use <= 2 * LARGEST, "one, and the next one before it is left"


@pytest.mark.parametrize(
    ("kind", "times"),
    # The table: one walk, and one for each channel.  Outlines: where labels end, then their edges.
    [("table-csv", 3), ("geojson", 2.3)],
)
def test_the_walks_are_few_whatever_the_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, times: float
) -> None:
    make_small(monkeypatch)
    watched = Watching(blobs(5))
    write_extras(LabelPlanes([[watched]]), Seen(Strips(image_of(1))), [kind], tmp_path)
    assert watched.times_read() <= times


def test_a_mean_of_fractions_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(6).random((1, *SHAPE, 1)).astype(np.float32)
    labels = Labels(blobs(7)[np.newaxis, ..., np.newaxis])
    expected: dict[str, Any] = dict(tables.label_table(labels, image))
    make_small(monkeypatch)
    found: dict[str, Any] = dict(tables.label_table(labels, Strips(image)))
    np.testing.assert_allclose(found["mean_intensity_0"], expected["mean_intensity_0"], rtol=1e-12)
    np.testing.assert_array_equal(found["max_intensity_0"], expected["max_intensity_0"])


@pytest.mark.parametrize("large", [2**40, -(2**40)])
def test_labels_may_be_any_numbers(monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    make_small(monkeypatch)
    plane: Plane = blobs(8).astype(np.int64) * large
    ids, last = last_blocks(plane)
    assert ids.tolist() == sorted(set(np.unique(plane[:, :]).tolist()) - {0})
    numbers = {label: n for n, (_, part) in enumerate(label_images.walk(plane)) for label in np.unique(part).tolist()}
    assert [numbers[label] for label in ids.tolist()] == last.tolist()

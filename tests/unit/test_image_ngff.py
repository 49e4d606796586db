"""OME-Zarr in: as zarr-python writes it, read by our own reader; and what is refused."""

from __future__ import annotations

import json
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, ZstdCodec

from redis_consumer.arrays import Labels
from redis_consumer.errors import JobRejected, StorageUnavailable
from redis_consumer.images import ImageLimits, open_ome_zarr
from redis_consumer.results.ngff import write_labels_zarr
from redis_consumer.storage.folders import objects_below
from redis_consumer.storage.object_store import open_storage

if TYPE_CHECKING:
    from pathlib import Path

    from redis_consumer.images import OpenImage

RNG = np.random.default_rng(4)


def numbers(*shape: int, dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return RNG.integers(0, 250, shape).astype(dtype)


class Folder:
    """Objects below a folder, and what was asked for."""

    def __init__(self, path: Path) -> None:
        self.path, self.asked = path, list[str]()

    def __call__(self, name: str, most: int) -> bytes | None:
        self.asked.append(name)
        path = self.path / name
        content = path.read_bytes() if path.is_file() else None
        assert content is None or len(content) <= most
        return content


def described(axes: str, **more: Any) -> dict[str, Any]:
    image = {"axes": [{"name": axis} for axis in axes], "datasets": [{"path": "0"}, {"path": "1"}], **more}
    return {"multiscales": [image], "omero": {"channels": [{"label": "DAPI"}, {"label": "CD45"}]}}


def write(path: Path, array: np.ndarray[Any, Any], axes: str, version: int = 2, **options: Any) -> Folder:
    """Write an image of two levels with zarr-python."""
    attributes = described(axes)
    group = zarr.open_group(path, mode="w", zarr_format=version)  # type: ignore[arg-type] # 2 or 3
    group.attrs.update(attributes if version == 2 else {"ome": {"version": "0.5", **attributes}})
    for level, values in enumerate((array, array[..., ::2, ::2])):
        group.create_array(str(level), shape=values.shape, dtype=values.dtype, **options)[...] = values
    return Folder(path)


def joined(image: OpenImage) -> np.ndarray[Any, Any]:
    whole = np.zeros(image.sizes, image.dtype)
    seen = np.zeros(image.sizes, int)
    for frame, channel in product(range(image.sizes[0]), range(image.sizes[-1])):
        for rows, columns, values in image.blocks(frame, channel):
            whole[frame, rows, columns, channel] = values
            seen[frame, rows, columns, channel] += 1
    assert (seen == 1).all()
    return whole


SEPARATORS: dict[int, list[dict[str, Any]]] = {
    2: [{"chunk_key_encoding": {"name": "v2", "separator": separator}} for separator in "./"],
    3: [{}, {"chunk_key_encoding": {"name": "default", "separator": "."}}, {"chunk_key_encoding": {"name": "v2"}}],
}
V2: list[Any] = [None, {"id": "zlib", "level": 1}, {"id": "blosc", "cname": "lz4"}, {"id": "zstd"}, {"id": "gzip"}]
V2 += [{"id": "lz4"}, {"id": "blosc", "cname": "zstd", "shuffle": 2}]
V3: list[Any] = [None, GzipCodec(), ZstdCodec(), BloscCodec(cname="lz4"), [ZstdCodec(), Crc32cCodec()]]


@pytest.mark.filterwarnings("ignore")  # zarr's own, about codecs that are not of the standard
class TestSamePixels:
    @pytest.fixture(autouse=True)
    def small_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("redis_consumer.images.blocks.BLOCK_VALUES", 900)

    def check(self, folder: Folder, expected: np.ndarray[Any, Any], axes: str) -> None:
        image = open_ome_zarr(folder, name="x.zarr")
        long = [i for i, axis in enumerate(axes) if axis in "yx" or expected.shape[i] > 1]
        letters = "".join("T" if axes[i] in "tz" else axes[i].upper() for i in long)
        expected = expected.reshape([expected.shape[i] for i in long])
        laid = expected.transpose([letters.index(axis) for axis in "TYXC" if axis in letters])
        laid = np.expand_dims(laid, [i for i, axis in enumerate("TYXC") if axis not in letters])
        assert (image.axes, image.axes_from, image.name) == (axes.upper(), "metadata", "x.zarr")
        np.testing.assert_array_equal(joined(image), laid)
        np.testing.assert_array_equal(image.read().stored, laid)

    @pytest.mark.parametrize("compressor", V2, ids=range(len(V2)))
    @pytest.mark.parametrize("separator", SEPARATORS[2], ids=str)
    def test_of_version_2(self, tmp_path: Path, compressor: Any, separator: dict[str, Any]) -> None:
        array = numbers(2, 70, 90)
        options = {"chunks": (1, 32, 40), "compressors": compressor, **separator}
        self.check(write(tmp_path / "x", array, "cyx", **options), array, "cyx")

    @pytest.mark.parametrize("compressor", V3, ids=range(len(V3)))
    @pytest.mark.parametrize("separator", SEPARATORS[3], ids=str)
    def test_of_version_3(self, tmp_path: Path, compressor: Any, separator: dict[str, Any]) -> None:
        array = numbers(2, 70, 90)
        options = {"chunks": (1, 32, 40), "compressors": compressor, **separator}
        self.check(write(tmp_path / "x", array, "cyx", 3, **options), array, "cyx")

    @pytest.mark.parametrize("dtype", ["uint8", "int16", ">u2", "float32", ">f8", "bool"])
    def test_of_any_type(self, tmp_path: Path, dtype: str) -> None:
        array = numbers(40, 50, dtype=dtype)
        self.check(write(tmp_path / "2", array, "yx", chunks=(16, 64)), array, "yx")
        serializer = BytesCodec(endian="big" if dtype.startswith(">") else "little")
        options = {"chunks": (16, 64), "serializer": serializer}
        self.check(write(tmp_path / "3", array.astype(array.dtype.newbyteorder("=")), "yx", 3, **options), array, "yx")

    @pytest.mark.parametrize(
        ("axes", "shape", "chunks"),
        [
            ("tczyx", (3, 2, 1, 40, 50), (2, 2, 1, 16, 20)),
            ("tcyx", (3, 2, 40, 50), (1, 1, 40, 50)),
            ("zyx", (5, 40, 50), (2, 64, 64)),
            ("yx", (100, 90), (100, 7)),
        ],
    )
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_of_any_axes_and_chunks(
        self, tmp_path: Path, axes: str, shape: tuple[int, ...], chunks: tuple[int, ...], order: str
    ) -> None:
        array = numbers(*shape)
        self.check(write(tmp_path / "x", array, axes, chunks=chunks, order=order), array, axes)

    def test_of_chunks_that_were_left_out(self, tmp_path: Path) -> None:
        array = np.full((64, 64), 7, np.uint16)
        array[:16, :16] = 9
        folder = write(tmp_path / "x", array, "yx", chunks=(16, 16), fill_value=7, config={"write_empty_chunks": False})
        assert len([path for path in (folder.path / "0").rglob("*") if path.name != ".zarray"]) < 16
        self.check(folder, array, "yx")

    def test_of_our_own_labels(self, tmp_path: Path) -> None:
        array = RNG.integers(0, 300, (1, 70, 90, 1))
        write_labels_zarr(Labels(array), tmp_path / "labels")
        image = open_ome_zarr(Folder(tmp_path / "labels/feature_0"), name="x.zarr")
        np.testing.assert_array_equal(joined(image), array)


class TestHeader:
    def test_only_the_chunks_of_the_plane_are_asked_for(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "x", numbers(2, 64, 64), "cyx", chunks=(1, 32, 32))
        image = open_ome_zarr(folder, name="x.zarr")
        assert (image.sizes, image.channel_names, image.is_color) == ((1, 64, 64, 2), ("DAPI", "CD45"), False)
        assert set(folder.asked) <= {"zarr.json", ".zattrs", "0/zarr.json", "0/.zarray"}
        folder.asked.clear()
        list(image.blocks(0, 1))
        assert sorted(folder.asked) == ["0/1.0.0", "0/1.0.1", "0/1.1.0", "0/1.1.1"]

    def test_limits_are_held_against_it(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "x", numbers(40, 50), "yx", chunks=(16, 16))
        with pytest.raises(JobRejected, match=r"'x\.zarr' has 40 x 50 pixels: allowed are 30 x 30"):
            open_ome_zarr(folder, name="x.zarr", limits=ImageLimits(height=30, width=30))

    def test_older_versions_name_their_axes_otherwise(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "x", numbers(1, 2, 1, 40, 50), "tczyx", chunks=(1, 1, 1, 16, 16))
        for axes in (None, list("tczyx")):
            image = {"datasets": [{"path": "0"}], **({"axes": axes} if axes else {})}
            (folder.path / ".zattrs").write_text(json.dumps({"multiscales": [image]}))
            assert open_ome_zarr(folder, name="x.zarr").sizes == (1, 40, 50, 2)

    @pytest.mark.parametrize(
        ("attributes", "reason"),
        [
            (None, r"it is no OME-Zarr image \(no zarr\.json, no \.zattrs\)"),
            ({}, r"it is no OME-Zarr image \(no multiscales\)"),
            ({"bioformats2raw.layout": 3}, r"its images are folders within, name one"),
            ({"multiscales": [{"axes": [], "datasets": [{"path": "7"}]}]}, "its array '7' is missing"),
            ({"multiscales": [{"axes": [{"name": "x"}], "datasets": [{"path": "0"}]}]}, "it is damaged"),
            ({"multiscales": [{"datasets": []}]}, "it is damaged"),
            ({"multiscales": "no"}, "it is damaged"),
            ([], "it is damaged"),
        ],
    )
    def test_what_is_no_image(self, tmp_path: Path, attributes: Any, reason: str) -> None:
        folder = write(tmp_path / "x", numbers(40, 50), "yx", chunks=(16, 16))
        (folder.path / ".zattrs").write_text(json.dumps(attributes))
        if attributes is None:
            (folder.path / ".zattrs").unlink()
        with pytest.raises(JobRejected, match=rf"^The image 'x\.zarr' cannot be read: .*{reason}"):
            open_ome_zarr(folder, name="x.zarr")

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"compressor": {"id": "shuffled"}}, "has chunks stored with 'shuffled': allowed are blosc, gzip"),
            ({"filters": [{"id": "delta"}]}, "has chunks stored with 'delta'"),
            ({"chunks": [0, 16]}, "damaged"),
            ({"chunks": [16]}, "damaged"),
            ({"chunks": [2**20, 2**20]}, "has chunks of 1099511627776 values: allowed are 16777216"),
            ({"shape": [2**14, 2**14], "chunks": [1, 1]}, "has 268435456 chunks: allowed are 262144"),
            ({"shape": [-40, 50]}, "declares no pixels"),
            ({"dtype": "|O"}, "has values of type object"),
            ({"dtype": "<c8"}, "has values of type complex64"),
        ],
    )
    def test_what_is_not_read(self, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
        folder = write(tmp_path / "x", numbers(40, 50), "yx", chunks=(16, 16))
        header = json.loads((folder.path / "0/.zarray").read_text())
        (folder.path / "0/.zarray").write_text(json.dumps({**header, **change}))
        with pytest.raises(JobRejected, match=rf"^The image 'x\.zarr' .*{reason}"):
            open_ome_zarr(folder, name="x.zarr")

    @pytest.mark.parametrize("frames", [0, -1])
    def test_no_frames_are_not_one(self, tmp_path: Path, frames: int) -> None:
        folder = write(tmp_path / "x", numbers(2, 40, 50), "tyx", chunks=(1, 16, 16))
        header = json.loads((folder.path / "0/.zarray").read_text())
        (folder.path / "0/.zarray").write_text(json.dumps({**header, "shape": [frames, 40, 50]}))
        with pytest.raises(JobRejected, match="declares no pixels"):
            open_ome_zarr(folder, name="x.zarr")

    def test_shards_are_not_read(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "x", numbers(64, 64), "yx", 3, chunks=(16, 16), shards=(32, 32))
        with pytest.raises(JobRejected, match="has chunks stored with 'sharding_indexed'"):
            open_ome_zarr(folder, name="x.zarr")

    @pytest.mark.parametrize("content", [b"", b"x", b"\0" * 5000])
    def test_a_damaged_chunk_is_told(self, tmp_path: Path, content: bytes) -> None:
        for compressor in V2:
            folder = write(tmp_path / "x", numbers(40, 50), "yx", chunks=(16, 16), compressors=compressor)
            (folder.path / "0/1.1").write_bytes(content)
            image = open_ome_zarr(folder, name="x.zarr")
            for read in (image.read, lambda image=image: list(image.blocks(0, 0))):
                with pytest.raises(JobRejected, match=r"The image 'x\.zarr' cannot be read: .*damaged"):
                    read()


class TestBucket:
    def test_an_image_of_a_bucket(self, tmp_path: Path) -> None:
        array = numbers(70, 90)
        write(tmp_path / "uploads/x.zarr", array, "yx", chunks=(32, 32))
        objects = objects_below(open_storage(str(tmp_path)), "uploads/x.zarr/")
        np.testing.assert_array_equal(joined(open_ome_zarr(objects, name="x.zarr"))[0, ..., 0], array)
        assert objects("none", 10) is None
        with pytest.raises(JobRejected, match=r"Object '0/\.zarray' of the image has \d+ bytes: allowed are 10"):
            objects("0/.zarray", 10)

    def test_metadata_lead_nowhere_else(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "uploads/x.zarr", numbers(40, 50), "yx", chunks=(16, 16))
        attributes = described("yx")
        attributes["multiscales"][0]["datasets"][0]["path"] = "../y.zarr/0"
        (folder.path / ".zattrs").write_text(json.dumps(attributes))
        with pytest.raises(JobRejected, match=r"has a segment '\.' or '\.\.'"):
            open_ome_zarr(objects_below(open_storage(str(tmp_path)), "uploads/x.zarr"), name="x.zarr")

    def test_trouble_of_the_bucket_is_no_fault_of_the_image(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "x", numbers(40, 50), "yx", chunks=(16, 16))

        def objects(name: str, most: int) -> bytes | None:
            if name == "0/1.1":
                raise StorageUnavailable("it is away")
            return folder(name, most)

        with pytest.raises(StorageUnavailable):
            open_ome_zarr(objects, name="x.zarr").read()

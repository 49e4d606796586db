"""The old names of `redis_consumer.utils`: signatures, and what consumers of the original rely on."""

from __future__ import annotations

import inspect
import io
import json
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from redis_consumer import utils
from redis_consumer.errors import JobRejected

PARITY = Path(__file__).resolve().parents[2] / "../shared/parity"
RNG = np.random.default_rng(0)

SIGNATURES = {
    "get_tempdir": "()",
    "get_image": "(filepath)",
    "save_numpy_array": "(arr, name='', subdir='', output_dir=None)",
    "zip_files": "(files, dest=None, prefix=None)",
    "rescale": "(image, scale, channel_axis=-1)",
    "iter_image_archive": "(zip_path, destination)",
    "get_image_files_from_dir": "(fname, destination=None)",
    "load_track_file": "(filename)",
    "strip_bucket_path": "(path)",
    "pad_image": "(image, field)",
    "reshape_matrix": "(X, y, reshape_size=256, is_channels_first=False)",
}


@pytest.mark.parametrize(("name", "signature"), SIGNATURES.items())
def test_signatures_are_the_old_ones(name: str, signature: str) -> None:
    parameters = inspect.signature(getattr(utils, name)).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert str(inspect.Signature(bare)) == signature


def test_a_tempdir_is_absolute_and_goes_away_and_the_working_directory_stays() -> None:
    before = Path.cwd()
    with utils.get_tempdir() as folder:
        assert isinstance(folder, str)
        assert Path(folder).is_absolute()
        assert Path(folder).is_dir()
        assert Path.cwd() == before
    assert not Path(folder).exists()


@pytest.mark.parametrize("shape", [(20, 31), (3, 20, 31), (1, 20, 31), (3, 2, 20, 31), (20, 31, 5)])
def test_tiffs_get_a_trailing_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = RNG.integers(0, 2**16, shape).astype("uint16")
    tifffile.imwrite(tmp_path / "x.TIFF", array, photometric="minisblack")
    image = utils.get_image(str(tmp_path / "x.TIFF"))
    assert image.dtype == np.float32
    assert image.shape == (*shape, 1)
    np.testing.assert_array_equal(image[..., 0], array)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4), ("1", 1), ("P", 3)])
def test_pictures_have_their_channels_last(tmp_path: Path, mode: str, channels: int) -> None:
    PillowImage.fromarray(RNG.integers(0, 256, (20, 31, 3)).astype("uint8")).convert(mode).save(tmp_path / "x.png")
    image = utils.get_image(tmp_path / "x.png")
    assert image.dtype == np.float32
    assert image.shape == (20, 31, channels)


def test_every_channel_is_saved_below_the_folder(tmp_path: Path) -> None:
    array = RNG.random((9, 11, 2))
    paths = utils.save_numpy_array(array, name="cells", subdir="/a/b", output_dir=str(tmp_path))
    assert paths == [str(tmp_path / f"a/b/cells_feature_{c}.tif") for c in (0, 1)]
    saved = tifffile.imread(paths[1])
    assert saved.dtype == np.float32
    np.testing.assert_array_equal(saved, array[..., 1].astype(np.float32))


def test_a_batch_axis_is_kept_in_the_file(tmp_path: Path) -> None:
    (path,) = utils.save_numpy_array(np.ones((1, 9, 11, 1)), "x", output_dir=tmp_path)
    assert tifffile.imread(path).shape == (1, 9, 11)


def test_several_outputs_of_a_model_are_saved_as_they_come(tmp_path: Path) -> None:
    outputs = [np.zeros((1, 9, 11, 2)), np.ones((1, 9, 11, 1))]
    paths = utils.save_numpy_array(outputs, "x", output_dir=tmp_path)
    assert [Path(path).name for path in paths] == [f"x_feature_{c}.tif" for c in range(3)]
    assert tifffile.imread(paths[2]).min() == 1


def test_two_axes_are_one_channel_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (path,) = utils.save_numpy_array(np.ones((9, 11)))
    assert path == str(tmp_path / "_feature_0.tif")


@pytest.mark.parametrize("options", [{"name": "../../x"}, {"subdir": "../.."}, {"name": "/etc/x", "subdir": "/../a"}])
def test_nothing_is_saved_outside(tmp_path: Path, options: dict[str, str]) -> None:
    folder = tmp_path / "a/job"
    (path,) = utils.save_numpy_array(np.ones((2, 2)), output_dir=folder, **options)
    assert Path(path).resolve().is_relative_to(folder)


def test_archives_are_named_anew_and_their_entries_relative(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    files = [tmp_path / "sub/b.tif", tmp_path / "a.tif"]
    for file in files:
        file.write_bytes(b"1")
    path = utils.zip_files([str(file) for file in files], str(tmp_path))
    assert Path(path).parent == tmp_path
    assert path.endswith(".zip")
    assert zipfile.ZipFile(path).namelist() == ["sub/b.tif", "a.tif"]
    other = utils.zip_files(files, tmp_path, prefix="mine")
    assert Path(other).name.startswith("mine_")
    assert other != utils.zip_files(files, tmp_path, prefix="mine")


def test_files_from_elsewhere_do_not_climb(tmp_path: Path) -> None:
    (tmp_path / "x.tif").write_bytes(b"1")
    (tmp_path / "dest").mkdir()
    with zipfile.ZipFile(utils.zip_files([tmp_path / "x.tif"], tmp_path / "dest")) as archive:
        assert archive.namelist() == ["x.tif"]


def test_images_of_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for name in ("b/x.tif", "__MACOSX/._x.tif", ".DS_Store", "LICENSE", "a.png"):
            archive.writestr(name, name)
    expected = [str(tmp_path / "out/b/x.tif"), str(tmp_path / "out/a.png")]
    assert list(utils.iter_image_archive(str(tmp_path / "in.zip"), str(tmp_path / "out"))) == expected
    assert list(utils.get_image_files_from_dir(str(tmp_path / "in.zip"), str(tmp_path / "out"))) == expected
    assert list(utils.get_image_files_from_dir("one.tif")) == ["one.tif"]


def test_an_archive_that_climbs_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("../x.tif", b"1")
    with pytest.raises(JobRejected):
        list(utils.iter_image_archive(tmp_path / "in.zip", tmp_path / "out"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2"])
def test_track_files_of_any_compression(tmp_path: Path, mode: Any) -> None:
    raw, tracked = RNG.random((4, 9, 11, 1)), RNG.integers(0, 5, (4, 9, 11, 1))
    write_tar(tmp_path / "x.trk", mode, {"lineage.json": b"{}", "raw.npy": npy(raw), "tracked.npy": npy(tracked)})
    read = utils.load_track_file(str(tmp_path / "x.trk"))
    assert set(read) == {"X", "y"}
    np.testing.assert_array_equal(read["X"], raw)
    np.testing.assert_array_equal(read["y"], tracked)


def test_track_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.trk").write_bytes(b"not a tar")
    with pytest.raises(JobRejected, match=r"track file 'x\.trk' cannot be read"):
        utils.load_track_file(tmp_path / "x.trk")
    write_tar(tmp_path / "y.trk", "w", {"raw.npy": npy(np.ones(3))})
    with pytest.raises(JobRejected, match=r"has no member 'tracked\.npy'"):
        utils.load_track_file(tmp_path / "y.trk")
    write_tar(tmp_path / "z.trk", "w", {"raw.npy": npy(np.array([{}])), "tracked.npy": npy(np.ones(3))})
    with pytest.raises(JobRejected, match="damaged"):
        utils.load_track_file(tmp_path / "z.trk")


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_tar(path: Path, mode: Any, members: dict[str, bytes]) -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize(
    ("path", "stripped"), [("/models/", "models"), ("//a/b/", "a/b"), ("a", "a"), ("", ""), ("/", "")]
)
def test_slashes_are_stripped(path: str, stripped: str) -> None:
    assert utils.strip_bucket_path(path) == stripped


def test_padding_mirrors_rows_and_columns() -> None:
    image = RNG.random((9, 11, 2))
    padded = utils.pad_image(image, 5)
    assert padded.shape == (13, 15, 2)
    np.testing.assert_array_equal(padded[2:-2, 2:-2], image)
    np.testing.assert_array_equal(padded[1, 2:-2], image[1])
    np.testing.assert_array_equal(padded[2:-2, -1], image[:, -3])
    assert utils.pad_image(image[np.newaxis], 5).shape == (1, 13, 15, 2)


def test_tiles_cover_the_whole_image_whichever_side_is_longer() -> None:
    image = np.arange(150 * 190, dtype=np.float64).reshape(1, 150, 190, 1)
    tiles, labels = utils.reshape_matrix(image, image.astype(int), reshape_size=64)
    assert tiles.shape == labels.shape == (9, 64, 64, 1)
    assert set(tiles.ravel()) == set(image.ravel())
    np.testing.assert_array_equal(tiles[1], image[0, :64, 64:128])
    np.testing.assert_array_equal(tiles[2], image[0, :64, 126:])
    wide, _ = utils.reshape_matrix(image.transpose(0, 2, 1, 3)[:, :, :70], image, reshape_size=64)
    assert wide.shape == (6, 64, 64, 1)


def test_tiles_of_images_with_channels_first() -> None:
    image = RNG.random((2, 3, 70, 64))
    tiles, _ = utils.reshape_matrix(image, image, reshape_size=64, is_channels_first=True)
    assert tiles.shape == (4, 3, 64, 64)
    np.testing.assert_array_equal(tiles[3], image[1, :, 6:])
    with pytest.raises(ValueError, match="cannot cut tiles of 65 pixels from an image of 70 x 64"):
        utils.reshape_matrix(image, image, reshape_size=65, is_channels_first=True)


def test_rescaling_by_one_does_nothing() -> None:
    image = RNG.random((5, 6))
    assert utils.rescale(image, 1) is image


def test_rescaling_keeps_channels_wherever_they_are() -> None:
    image = RNG.random((2, 10, 12))
    np.testing.assert_array_equal(
        utils.rescale(image, 1.5, channel_axis=0), np.moveaxis(utils.rescale(np.moveaxis(image, 0, -1), 1.5), -1, 0)
    )
    assert utils.rescale(image, 0.01, channel_axis=0).shape == (2, 1, 1)
    with pytest.raises(ValueError, match="cannot rescale an array of shape"):
        utils.rescale(RNG.random((1, 2, 3, 4)), 2)


def parity_cases() -> list[dict[str, Any]]:
    if not (PARITY / "manifest.json").is_file():
        return []
    cases = json.loads((PARITY / "manifest.json").read_text())["cases"]
    return [case for case in cases if case["function"] in ("seed.rescale", "seed.reshape_matrix")]


@pytest.mark.skipif(not PARITY.is_dir(), reason="the shared reference data are not beside the checkout")
@pytest.mark.parametrize("case", parity_cases(), ids=lambda case: case["id"])
def test_the_vectors_of_the_original(case: dict[str, Any]) -> None:
    arrays = np.load(PARITY / "seed.npz")
    source, target = case["inputs"]["image"], case["outputs"]["out"]
    image, expected = arrays[source["array"]].astype(source["dtype"]), arrays[target["array"]]
    if case["function"] == "seed.rescale":
        result = utils.rescale(image, case["params"]["scale"])
    else:
        result, _ = utils.reshape_matrix(image, image, reshape_size=case["params"]["size"])
    assert (list(result.shape), str(result.dtype)) == (target["shape"], target["dtype"])
    if case["id"] != "seed_reshape_matrix_rect":  # the original skipped the middle columns
        clear = np.ix_(*(between(n, m) for n, m in zip(image.shape[:2], expected.shape[:2], strict=True)))
        part = ... if case["function"] == "seed.reshape_matrix" else clear
        np.testing.assert_array_equal(result[part], expected[part])


def between(size: int, new: int) -> np.ndarray[Any, Any]:
    """Return the new pixels whose nearest old one was no matter of rounding noise in the original.

    Ties of every pixel (scale 1/2) were none: there it took the second, as we do.
    """
    position = (np.arange(new) + 0.5) * (size / new)
    ties = np.abs(position - np.round(position)) < 1e-9
    return np.flatnonzero(~ties) if ties.sum() < new / 2 else np.arange(new)


def test_nothing_else_is_offered() -> None:
    names = {name for name, value in vars(utils).items() if inspect.isfunction(value) and not name.startswith("_")}
    names -= {"contextmanager", "read_image_seed", "read_track_file", "cut_square", "pad_reflected", "rescale_nearest"}
    assert names == set(SIGNATURES)
    assert os.sep == "/"

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from redis_consumer.archives import name_fault
from redis_consumer.consumers.entries import EntryNames
from redis_consumer.results import entry_stem

NAMES = (
    st.text(st.sampled_from("ab/._-é "), min_size=1, max_size=12)
    .map(lambda text: f"{text.strip('/')}.tif")
    .filter(lambda name: name != ".tif")
)


def named(*pairs: tuple[str, str]) -> list[str]:
    """Return the names in one archive for pairs of an image and a file of its result."""
    names, taken = EntryNames(list(dict.fromkeys(image for image, _ in pairs))), list[str]()
    for image, entry in pairs:
        taken.append(names.free(image, entry, taken))
    return taken


def test_files_that_are_named_after_their_image_keep_their_names() -> None:
    names = ["b/2_feature_0.tif", "a_feature_0.tif", "a.b_feature_0.tif"]
    assert named(("b/2.tif", names[0]), ("a.png", names[1]), ("a.b.tif", names[2])) == names


def test_the_files_of_a_single_image_keep_their_names() -> None:
    assert named(("d/movie.tif", "d/movie_feature_0.tif"), ("d/movie.tif", "lineage.json")) == [
        "d/movie_feature_0.tif",
        "lineage.json",
    ]


def test_files_of_one_name_are_named_after_their_images() -> None:
    assert named(("d/m.tif", "lineage.json"), ("l.tif", "lineage.json"), ("n.tif", "sub/x.csv")) == [
        "d/m_lineage.json",
        "l_lineage.json",
        "n_sub/x.csv",
    ]


def test_a_file_comes_into_the_folder_of_its_image() -> None:
    assert named(("d/a.tif", "a_0.npy"), ("a.tif", "a_0.npy")) == ["d/a_0.npy", "a_0.npy"]


def test_images_that_differ_in_their_extension_give_files_that_tell() -> None:
    pairs = [("a.png", "a_feature_0.tif"), ("a.tif", "a_feature_0.tif"), ("b/a.tif", "b/a_feature_0.tif")]
    assert named(*pairs) == ["a.png_feature_0.tif", "a.tif_feature_0.tif", "b/a_feature_0.tif"]


def test_whatever_is_left_is_numbered_before_the_suffix() -> None:
    assert named(("a.tif", "x.tif"), ("a.tif", "x.tif"), ("a.tif", "x.tif")) == ["x.tif", "x-2.tif", "x-3.tif"]


def test_a_dot_of_a_folder_is_no_suffix() -> None:
    assert named(("a.tif", "b.c/x"), ("a.tif", "b.c/x")) == ["b.c/x", "b.c/x-2"]


def test_a_name_that_would_be_too_long_is_shortened() -> None:
    (name, _) = named(("i" * 200 + ".tif", "e" * 200 + ".csv"), ("b.tif", "b.tif"))
    assert name_fault(name) == ""
    assert name.endswith(".csv")


@given(st.lists(st.tuples(NAMES, NAMES), max_size=8))
def test_no_name_comes_twice_and_each_keeps_its_suffix(pairs: list[tuple[str, str]]) -> None:
    pairs = [(image, entry) for image, entry in pairs if not name_fault(entry)]
    names = named(*pairs)
    assert len(set(names)) == len(names)
    assert all(name_fault(name) == "" for name in names)
    assert all(name.endswith(".tif") for name in names)


@pytest.mark.parametrize("image", ["a.tif", "d/a.tif", "d/a.b.png"])
def test_a_stem_is_a_name_of_its_own(image: str) -> None:
    other = "elsewhere/z.tif"
    assert named((image, f"{entry_stem(image)}_0.tif"), (other, "z_0.tif"))[0] == f"{entry_stem(image)}_0.tif"

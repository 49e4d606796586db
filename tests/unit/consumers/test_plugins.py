from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest

from redis_consumer.consumers import CONSUMERS, Consumer, ImageFileConsumer, SegmentationConsumer, plugins
from redis_consumer.consumers.plugins import GROUP, find_consumer
from redis_consumer.errors import SettingsError


class Mine(Consumer):
    """Somebody's own."""


@pytest.fixture
def lab_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of somebody's own, `their_lab.consumers`, with an entry point `theirs` and one that is broken."""
    module = ModuleType("their_lab.consumers")
    vars(module).update(Mine=Mine, helper=len, path="here")
    monkeypatch.setitem(sys.modules, "their_lab", ModuleType("their_lab"))
    monkeypatch.setitem(sys.modules, "their_lab.consumers", module)
    points = [
        EntryPoint("Theirs", "their_lab.consumers:Mine", GROUP),
        EntryPoint("broken", "their_lab.absent:Mine", GROUP),
        EntryPoint("image", "their_lab.consumers:Mine", GROUP),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point for point in points if point.group == group])


@pytest.mark.parametrize(
    ("name", "found"),
    [("image", ImageFileConsumer), ("Image", ImageFileConsumer), ("SEGMENTATION", SegmentationConsumer)],
)
def test_a_name_of_the_table_is_found_in_any_case(name: str, found: type[Consumer]) -> None:
    assert find_consumer(name, CONSUMERS) is found


@pytest.mark.usefixtures("lab_package")
@pytest.mark.parametrize("name", ["their_lab.consumers:Mine", "their_lab.consumers.Mine"])
def test_a_dotted_path_is_imported(name: str) -> None:
    assert find_consumer(name, CONSUMERS) is Mine


@pytest.mark.usefixtures("lab_package")
@pytest.mark.parametrize("name", ["theirs", "Theirs"])
def test_an_entry_point_is_loaded(name: str) -> None:
    assert find_consumer(name, CONSUMERS) is Mine


@pytest.mark.usefixtures("lab_package")
def test_nobody_replaces_a_built_in_type_by_an_entry_point() -> None:
    assert find_consumer("image", CONSUMERS) is ImageFileConsumer


@pytest.mark.usefixtures("lab_package")
@pytest.mark.parametrize("name", ["imag", "", "a/b"])
def test_what_is_neither_names_what_there_is(name: str) -> None:
    with pytest.raises(
        SettingsError, match=r"allowed are broken, .*image, .*segmentation, .*theirs.* or a dotted path"
    ) as caught:
        find_consumer(name, CONSUMERS)
    assert str(caught.value).startswith(f"CONSUMER_TYPE is {name!r}: ")


@pytest.mark.usefixtures("lab_package")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("no_such_lab:Mine", "No module named 'no_such_lab'"),
        ("their_lab.absent.Mine", "No module named 'their_lab.absent'"),
        ("their_lab.consumers:Absent", "has no attribute 'Absent'"),
        (":Mine", "Empty module name"),
        ("..:Mine", "relative import"),
        ("their_lab:", "has no attribute ''"),
        ("a b.py:Mine", "No module named 'a b'"),
        ("broken", "No module named 'their_lab.absent'"),
    ],
)
def test_what_cannot_be_imported_stops_the_start_in_one_line(name: str, why: str) -> None:
    with pytest.raises(SettingsError, match=why) as caught:
        find_consumer(name, CONSUMERS)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("lab_package")
@pytest.mark.parametrize("name", ["their_lab.consumers:helper", "their_lab.consumers:path", "builtins:dict"])
def test_what_is_no_consumer_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=r"is not a subclass of redis_consumer\.consumers\.Consumer"):
        find_consumer(name, CONSUMERS)

"""What may be written into a job's hash."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from redis_consumer.queues.base import Place, texts
from redis_consumer.queues.lua import packed, pairs


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("text, with\nlines", "text, with\nlines"),
        ("", ""),
        (3, "3"),
        (0.25, "0.25"),
        (Place.FRONT, "front"),
        (np.float32(0.5), "0.5"),
        (np.int64(7), "7"),
        (Fraction(1, 2), "1/2"),
    ],
)
def test_texts_and_numbers_are_written_as_text(value: str | float, written: str) -> None:
    assert texts({"field": value}) == {"field": written}


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, b"bytes", object()])
def test_anything_else_is_refused_by_name(value: object) -> None:
    with pytest.raises(TypeError, match="'output_url'"):
        texts({"status": "done", "output_url": value})  # type: ignore[dict-item]  # what an old consumer may do


@pytest.mark.parametrize("name", ["plain", "Größe 細胞 🔬", b"caf\xe9".decode("utf-8", "surrogateescape")])
def test_a_name_survives_the_wire(name: str) -> None:
    assert packed(name).decode("utf-8", "surrogateescape") == name


def test_a_hash_arrives_as_names_and_values_by_turns() -> None:
    assert pairs(["status", "new", "scale", ""]) == {"status": "new", "scale": ""}

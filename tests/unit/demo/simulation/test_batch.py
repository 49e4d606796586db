"""The simulated batch."""

from __future__ import annotations

from pathlib import PurePosixPath

from redis_consumer.demo.simulation.batch import builtin_batch


def test_the_batch_has_folders_and_one_name_in_two_of_them() -> None:
    fields = builtin_batch()
    bases = [PurePosixPath(name).name for name in fields]
    assert len(set(bases)) < len(bases)
    assert {PurePosixPath(name).suffix for name in fields} == {".tif", ".png"}
    assert fields["blank.tif"].labels.max() == 0
    assert all(field.labels.max() > 0 for name, field in fields.items() if name != "blank.tif")

"""Whether each result is that of its own job: the zip is fetched and its pixels are compared."""

from __future__ import annotations

import io
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import tifffile
from tests.chaos.ledger import name_of, number_of, picture

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from obstore.store import ObjectStore


def wrong_results(store: ObjectStore, final: Mapping[str, Mapping[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the jobs that are done and whose zip is not what it should be, and what is wrong."""
    done = [(key, fields) for key, fields in final.items() if fields.get("status") == "done"]

    def wrong(job: tuple[str, Mapping[str, str]]) -> str:
        return fault_of(store, *job)

    with ThreadPoolExecutor(4) as pool:
        for (key, _), what in zip(done, pool.map(wrong, done), strict=True):
            if what:
                yield key, what


def fault_of(store: ObjectStore, key: str, fields: Mapping[str, str]) -> str:
    """Return what is wrong with a result, or nothing: it must be the job's own image, pixel by pixel."""
    number, output = number_of(key), fields.get("output_file_name", "")
    if not fields.get("output_url", "").endswith(f"/{output}"):
        return f"output_url {fields.get('output_url')} is not about {output}"
    try:
        with zipfile.ZipFile(io.BytesIO(bytes(store.get(output).bytes()))) as archive:
            ((name, content),) = [(name, archive.read(name)) for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        return f"its result {output} cannot be read: {error}"
    expected = picture(number)
    if name != f"{name_of(number).removesuffix('.tif')}_feature_0.tif":
        return f"its result holds {name}"
    if not np.array_equal(tifffile.imread(io.BytesIO(content)), expected.astype(np.float32)):
        return f"its result {output} is not its own image"
    return ""

"""What the files of many images are called in one archive.  Knows names only."""

from __future__ import annotations

from collections import Counter
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from redis_consumer.archives import name_fault, numbered
from redis_consumer.results import entry_stem, safe_name

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class EntryNames:
    """Gives each file a name that tells whose it is.  The files of a single image keep their names.

    ``lineage.json`` of ``day 1/movie.tif`` becomes ``day 1/movie_lineage.json``; and where there are ``a.png`` and
    ``a.tif``, ``a_feature_0.tif`` becomes ``a.png_feature_0.tif`` and ``a.tif_feature_0.tif``.
    """

    def __init__(self, images: Sequence[str]) -> None:
        self._several = len(images) > 1
        self._stems = Counter(map(entry_stem, images))

    def free(self, image: str, entry: str, taken: Collection[str]) -> str:
        """Return the name for a file of `image` that is called `entry` in its own result; none of `taken`."""
        name = self._named(image, entry) if self._several else entry
        if name_fault(name):
            name = safe_name(name)
        return name if name not in taken else next(n for n in numbered(name) if n not in taken)

    def _named(self, image: str, entry: str) -> str:
        stem = entry_stem(image)
        label = stem if self._stems[stem] == 1 else safe_name(image)
        for own in (stem, PurePosixPath(stem).name):
            rest = entry.removeprefix(own)
            if rest != entry and not rest[:1].isalnum():
                return label + rest
        return f"{label}_{entry}"

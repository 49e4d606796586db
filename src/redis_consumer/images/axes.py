"""Which axis of a file is which: the file's word, else the job's, else one rule.  Pure text and numbers.

The rule, for files that do not say and jobs that do not either, axes of length 1 aside:

=====  ======================  =========
axes   last axis               taken for
=====  ======================  =========
2      any                     YX
3      1 to 4 long             YXC
3      longer                  TYX
4      1 to 4 long             TYXC
else                           rejected
=====  ======================  =========

Pages of a plain multi-page TIFF are frames (T).
"""

from __future__ import annotations

from typing import Literal

from redis_consumer.errors import JobRejected

Origin = Literal["metadata", "job", "rule"]

KNOWN = frozenset("TZBCSYX")
FRAMES = frozenset("TZBI")
MOST_CHANNELS = 4
"""A last axis of a file that says nothing is taken for channels up to this length."""


def resolve(name: str, shape: tuple[int, ...], axes: str, wanted: str) -> tuple[str, Origin]:
    """Return a letter for each axis of `shape`, and where the letters are from.

    `axes` are the file's own letters; `wanted` are the job's, and may be empty.  Axes of length 1 that nobody
    explains keep their unknown letter: they are dropped by the caller.  JobRejected where there is no answer.
    """
    if all(letter in KNOWN for letter, size in zip(axes, shape, strict=True) if size > 1 or letter in "YX"):
        return axes, "metadata"
    if wanted:
        return _from_job(name, shape, axes, wanted), "job"
    found = _by_rule(tuple(size for size in shape if size > 1), axes, shape)
    if not found:
        raise JobRejected(
            f"The image {name!r} of shape {shape} does not say what its axes are: name them in 'dimension_order', "
            "one letter each (Y, X, T or Z or B, C)"
        )
    return found, "rule"


def rows_first(wanted: str) -> str:
    """Return the job's letters with Y for rows, whichever of X and Y it put first.

    The Kiosk writes X for rows (``XYB``), most others Y (``YXC``); nobody means a transposed image.
    """
    letters = wanted.strip().upper()
    if "Y" in letters and 0 <= letters.find("X") < letters.find("Y"):
        return letters.translate(str.maketrans("XY", "YX"))
    return letters


def _from_job(name: str, shape: tuple[int, ...], axes: str, given: str) -> str:
    """Return the job's letters in place of the unknown ones: of pages where the file has them, else all."""
    wanted = rows_first(given)
    others = [letter for letter in wanted if letter not in "YX"]
    pages = axes.count("I")
    if pages and pages == len(others) and set(axes) <= KNOWN | {"I"}:
        return "".join(others.pop(0) if letter == "I" else letter for letter in axes)
    long = [index for index, size in enumerate(shape) if size > 1]
    if len(wanted) == len(shape):
        return wanted
    if len(wanted) == len(long):
        letters = dict(zip(long, wanted, strict=True))
        return "".join(letters.get(index, letter) for index, letter in enumerate(axes))
    raise JobRejected(
        f"'dimension_order' {given!r} names {len(wanted)} axes, the image {name!r} has {len(shape)}: shape {shape}"
    )


def _by_rule(sizes: tuple[int, ...], axes: str, shape: tuple[int, ...]) -> str:
    """Return letters for `axes` by the table above; empty where it has no answer."""
    unknown = {letter for letter, size in zip(axes, shape, strict=True) if size > 1 and letter not in KNOWN}
    has_more = {letter for letter in axes if letter in KNOWN} - {"Y", "X"}
    if unknown == {"I"} or has_more:
        free = "T" if not has_more & FRAMES else "C" if not has_more & {"C", "S"} else ""
        return "".join(free if letter in unknown else letter for letter in axes) if len(unknown) == 1 and free else ""
    small_end = bool(sizes) and sizes[-1] <= MOST_CHANNELS
    table = {2: "YX", 3: "YXC" if small_end else "TYX", 4: "TYXC" if small_end else ""}
    letters = iter(table.get(len(sizes), ""))
    return "".join(axes[i] if size == 1 else next(letters, "") for i, size in enumerate(shape))

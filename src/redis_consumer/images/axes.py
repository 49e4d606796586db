"""Which axis of a file is which: the file's word, the job's, else one rule.  Pure text and numbers.

1. *The file* says where its rows and columns are, and often what its other axes are.
2. *The job's* `dimension_order` says what the other axes are.  Where it contradicts the file it wins, if it names as
   many axes as the file has; otherwise the job is refused.  Rows and columns of a TIFF or a picture stay where they
   are, and the colours of a picture stay its channels.  ``XYB`` is no such word: the Kiosk's form sends it with
   every image, so it counts only where the file says nothing, and of bare arrays only where the last axis is shorter
   than both others.
3. *The rule*, for files that do not say and jobs that do not either, axes of length 1 aside:

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

Axes that a job names and a file lacks have length 1.
"""

from __future__ import annotations

import re
from typing import Literal

from redis_consumer.errors import JobRejected
from redis_consumer.images.source import UNKNOWN

Origin = Literal["metadata", "job", "rule"]

FRAMES = "TZBI"
CHANNELS = "CS"
KNOWN = frozenset("TZBCSYX")
FORM_DEFAULT = "YXB"
"""What the Kiosk's form sends (as ``XYB``) where nobody chose an order."""
MOST_CHANNELS = 4
"""A last axis of a file that says nothing is taken for channels up to this length."""


def resolve(name: str, shape: tuple[int, ...], axes: str, wanted: str) -> tuple[str, Origin]:
    """Return a letter for each axis of `shape`, and where the letters are from.

    `axes` are the file's own letters; `wanted` are the job's, and may be empty.  Axes of length 1 that nobody
    explains keep their unknown letter: they are dropped by the caller.  JobRejected where there is no answer.
    """
    order = checked_order(wanted)
    long = [i for i, size in enumerate(shape) if size > 1 or axes[i] in "YX"]
    says_all = all(axes[i] in KNOWN for i in long)
    if says_all and order in ("", FORM_DEFAULT):
        return axes, "metadata"
    if order == FORM_DEFAULT and not _may_end_in_batches(axes, shape, long):
        order = ""
    if order and (found := _explained(axes, order, long)):
        return found, "metadata" if found == axes else "job"
    if len(shape) == 2 and not says_all:  # noqa: PLR2004 - rows and columns, whatever else the job names
        return "YX", "rule"
    if order:
        raise JobRejected(_contradiction(name, shape, axes if says_all else "", wanted))
    if found := _by_rule(tuple(size for size in shape if size > 1), axes, shape):
        return found, "rule"
    raise JobRejected(
        f"The image {name!r} of shape {shape} does not say what its axes are: name them in 'dimension_order', "
        "one letter each (Y, X, T or Z or B, C)"
    )


def checked_order(given: str) -> str:
    """Return the job's letters, upper case, rows first; JobRejected if they can be the axes of no image."""
    order = rows_first(given)
    kinds = re.sub(f"[{CHANNELS}]", "C", re.sub(f"[{FRAMES}]", "T", order))
    if order and not ({"Y", "X"} <= set(kinds) <= set("TYXC") and len(set(kinds)) == len(kinds)):
        raise JobRejected(
            f"The field 'dimension_order' is {given!r}: allowed are X and Y, one of B, T, Z, and C, each once and in "
            "any order, for example XY, BXY or CXYB"
        )
    return order


def rows_first(wanted: str) -> str:
    """Return the job's letters with Y for rows, whichever of X and Y it put first.

    The Kiosk writes X for rows (``XYB``), most others Y (``YXC``); nobody means a transposed image.
    """
    letters = wanted.strip().upper()
    if "Y" in letters and 0 <= letters.find("X") < letters.find("Y"):
        return letters.translate(str.maketrans("XY", "YX"))
    return letters


def _may_end_in_batches(axes: str, shape: tuple[int, ...], long: list[int]) -> bool:
    """Return whether it makes sense to follow the form's default: batches are fewer than rows and columns.

    A bare stack has its frames in front, and of it the form would make as many batches as it has columns.
    """
    if all(axes[i] in KNOWN | {"I"} for i in long):
        return True
    sizes = shape if len(shape) == len(FORM_DEFAULT) else tuple(shape[i] for i in long)
    return len(sizes) != len(FORM_DEFAULT) or sizes[-1] < min(sizes[:-1])


def _explained(axes: str, order: str, long: list[int]) -> str:
    """Return the file's letters as the job's `order` confirms or changes them; empty where it does not fit."""
    stored = {axes[i] for i in long}
    if {"Y", "X"} <= stored <= KNOWN | {"I"}:
        return _renamed(axes, order, long)
    for indexes in (range(len(axes)), long):
        if len(order) == len(indexes):
            letters = dict(zip(indexes, order, strict=True))
            return "".join(letters.get(index, letter) for index, letter in enumerate(axes))
    return ""


def _renamed(axes: str, order: str, long: list[int]) -> str:
    """Return `axes`, of a file that knows its rows and columns: what the job does not confirm takes its next letter."""
    free = [letter for letter in order if letter not in "YX"]
    unconfirmed = []
    for index in (i for i in long if axes[i] not in "YX"):
        letter = axes[index]
        word = next((word for word in free if _same_kind(word, letter)), "")
        if word:
            free.remove(word)
        elif letter != "S" or _frames_stand_at(index, axes, order, long):
            unconfirmed.append(index)
    if unconfirmed and len(unconfirmed) != len(free):
        return ""
    letters = dict(zip(unconfirmed, free, strict=False))
    return "".join(letters.get(index, letter) for index, letter in enumerate(axes))


def _same_kind(word: str, letter: str) -> bool:
    """Return whether both are frames, or both channels; of pages nobody knows."""
    return letter != "I" and any(word in kind and letter in kind for kind in (FRAMES, CHANNELS))


def _frames_stand_at(index: int, axes: str, order: str, long: list[int]) -> bool:
    """Return whether the job says, letter for letter, that the colours of the file are frames.

    Three or four planes are often stored as red, green and blue by a program that was not told what they are.
    """
    stored = "".join(axes[i] if axes[i] in "YX" else "?" for i in long)
    spoken = "".join(letter if letter in "YX" else "?" for letter in order)
    return order != FORM_DEFAULT and spoken == stored and order[long.index(index)] in FRAMES


def _contradiction(name: str, shape: tuple[int, ...], axes: str, given: str) -> str:
    told = f", its metadata say {axes}: leave the field blank to follow them" if axes else ""
    letters = len(given.strip())
    return f"'dimension_order' {given!r} names {letters} axes, the image {name!r} has {len(shape)}: shape {shape}{told}"


def _by_rule(sizes: tuple[int, ...], axes: str, shape: tuple[int, ...]) -> str:
    """Return letters for `axes` by the table above; empty where it has no answer."""
    unknown = {letter for letter, size in zip(axes, shape, strict=True) if size > 1 and letter not in KNOWN}
    has_more = {letter for letter in axes if letter in KNOWN} - {"Y", "X"}
    if unknown == {"I"} or has_more:
        free = "T" if not has_more & set(FRAMES) else "C" if not has_more & set(CHANNELS) else ""
        return "".join(free if letter in unknown else letter for letter in axes) if len(unknown) == 1 and free else ""
    small_end = bool(sizes) and sizes[-1] <= MOST_CHANNELS
    table = {2: "YX", 3: "YXC" if small_end else "TYX", 4: "TYXC" if small_end else ""}
    letters = iter(table.get(len(sizes), ""))
    short = axes.translate(str.maketrans("YX", UNKNOWN * 2))  # rows and columns are among the long ones
    return "".join(short[i] if size == 1 else next(letters, "") for i, size in enumerate(shape))

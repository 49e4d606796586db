"""An object as a file that is read by ranges: only what is asked for travels, and a little around it.

Small reads, as of headers, are read ahead of, further each time as long as one follows the other; larger ones are
fetched as they are.  The last pieces are kept, so that going to and fro costs no request.  Knows no client library.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING

from redis_consumer.errors import StorageUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Buffer

SMALL_BYTES = 2**16
"""Reads up to this size are read ahead of."""
FIRST_BYTES = 2**15
"""Fetched at least, wherever a file is looked into."""
START_BYTES = 2**20
"""Fetched when it is opened: all of most images."""
AHEAD_BYTES = 2**22
"""Fetched at most for a small read."""
PIECE_BYTES = 2**23
"""Fetched at most in one request: it is in memory as a whole, beside what it is read into."""
KEPT_BYTES = 2**24


class RangeFile(io.RawIOBase):
    """A read-only file over `fetch`, which returns the bytes from one place up to another.

    Reads fill what they are given, up to the end of the file.  A fetch that failed is not tried again: its error is
    raised by every read from then on, since a library in between may have swallowed it.  For one thread.
    """

    def __init__(self, size: int, fetch: Callable[[int, int], Buffer], start: Buffer = b"") -> None:
        super().__init__()
        self.size = size
        """In bytes."""
        self.fetched = 0
        """Bytes that have travelled."""
        self.failure: Exception | None = None
        """What the first fetch that failed raised."""
        self._fetch = fetch
        self._position = 0
        self._ahead = FIRST_BYTES
        self._next = 0
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._keep(0, memoryview(start))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        """Close the file, and raise the error of the fetch that failed in place of what became of it, or of nothing."""
        self.close()
        if self.failure and (error is None or isinstance(error, Exception)):
            raise self.failure

    def close(self) -> None:
        """Close the file, and let go of what was kept of it."""
        self._kept.clear()
        super().close()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the place of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; nothing travels."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, or all that are left; fewer only at the end."""
        left = max(self.size - self._position, 0)
        # Whoever asks for more than there is gets no buffer of that size.
        return super().read(left if size is None or size < 0 else min(size, left)) or b""

    def readinto(self, buffer: Buffer, /) -> int:
        """Fill the buffer; return how many bytes there were."""
        if self.failure:
            raise self.failure
        room = memoryview(buffer).cast("B")
        room = room[: max(self.size - self._position, 0)]
        filled = 0
        while filled < len(room):
            piece = self._known(self._position + filled) or self._loaded(self._position + filled, len(room) - filled)
            piece = piece[: len(room) - filled]
            room[filled : filled + len(piece)] = piece
            filled += len(piece)
        self._position += filled
        return filled

    def _known(self, place: int) -> memoryview | None:
        """Return what is kept from `place` on."""
        for start, piece in self._kept.items():
            if start <= place < start + len(piece):
                self._kept.move_to_end(start)
                return piece[place - start :]
        return None

    def _loaded(self, place: int, wanted: int) -> memoryview:
        """Fetch what stands at `place`, and keep it."""
        self._ahead = min(2 * self._ahead, AHEAD_BYTES) if place == self._next else FIRST_BYTES
        end = min(
            place + (wanted if wanted > SMALL_BYTES else max(wanted, self._ahead)), place + PIECE_BYTES, self.size
        )
        end = min((start for start in self._kept if place < start < end), default=end)
        try:
            piece = _whole(self._fetch(place, end), end - place)
        except Exception as error:
            self.failure = error
            raise
        self._keep(place, piece)
        return piece

    def _keep(self, place: int, piece: memoryview) -> None:
        self.fetched += len(piece)
        self._next = place + len(piece)
        self._kept[place] = piece
        while sum(map(len, self._kept.values())) > KEPT_BYTES:
            self._kept.popitem(last=False)


def _whole(piece: Buffer, size: int) -> memoryview:
    view = memoryview(piece)
    if len(view) != size:
        raise StorageUnavailable(f"The storage sent {len(view)} bytes in place of {size}")
    return view

"""An S3 server that only keeps bytes: GET, HEAD and PUT of whole objects, and GET of ranges.

What a worker asks of a bucket, for next to no processor time of its own: 0.7 ms for the requests of a 512 x 512 job.
moto, which the tests use, took 5.1 ms, a sixth of all that such a job costs.  Nothing is checked, neither signatures
nor checksums; objects stay in memory.

``python benchmarks/s3.py`` listens on a free port of the loopback and says which.
"""

from __future__ import annotations

import hashlib
import re
import signal
import sys
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MISSING = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>"
BUFFER_BYTES = 2**20


class Bucket(BaseHTTPRequestHandler):
    """One connection.  Keys are paths, the bucket's name included."""

    protocol_version = "HTTP/1.1"
    wbufsize = BUFFER_BYTES
    disable_nagle_algorithm = True
    objects: dict[str, bytes] = {}  # noqa: RUF012 - one process, one bucket

    def do_PUT(self) -> None:
        """Keep an object."""
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.objects[self.path] = data
        self._answer(HTTPStatus.OK, b"", etag(data))

    def do_GET(self) -> None:
        """Return an object, or a range of it."""
        data = self.objects.get(self.path)
        if data is None:
            self._answer(HTTPStatus.NOT_FOUND, MISSING, "")
        elif wanted := self.headers["Range"]:
            first, last = span(wanted, len(data))
            where = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self._answer(HTTPStatus.PARTIAL_CONTENT, data[first : last + 1], etag(data), where)
        else:
            self._answer(HTTPStatus.OK, data, etag(data))

    do_HEAD = do_GET  # noqa: N815 - the library's words

    def handle_expect_100(self) -> bool:
        """Let the body come; boto3 waits a second for the word."""
        known = super().handle_expect_100()
        self.wfile.flush()
        return known

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's word
        """Write no line for each request."""

    def _answer(self, status: HTTPStatus, body: bytes, tag: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": tag, "Last-Modified": formatdate(0, usegmt=True)}
        for name, value in {**headers, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def etag(data: bytes) -> str:
    """Return what changes with the bytes; not MD5, as S3's, which would cost more than everything else."""
    return f'"{hashlib.blake2b(data[:4096], digest_size=16).hexdigest()}-{len(data)}"'


def span(wanted: str, size: int) -> tuple[int, int]:
    """Return the first and last byte that a Range header asks for: ``bytes=1-9``, ``bytes=1-`` or ``bytes=-9``."""
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()  # type: ignore[union-attr]  # our own client
    if not first:
        return max(0, size - int(last)), size - 1
    return int(first), min(int(last or size), size - 1)


def main() -> None:
    """Serve until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        server.daemon_threads = True
        print(f"listening on 127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()

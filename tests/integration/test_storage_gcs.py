"""Google Cloud Storage, spoken by obstore to a small server of our own that knows GCS's XML interface.

What this proves: the requests that we send are the ones that the documentation asks for (bearer token, one PUT,
`x-goog-acl` exactly where it belongs), and its answers are understood, refusals included.  What it does not prove:
that Google accepts them.  Nothing here checks a token, a permission, a quota or Google's own limits.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from redis_consumer.errors import AccessDenied, SettingsError, StorageUnavailable
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.testing.storage import StorageExam

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from redis_consumer.storage.base import Storage

BUCKET = "kiosk-bucket"


@dataclass
class Bucket:
    """The state of the server: the objects, their permissions, and how it is to behave."""

    objects: dict[str, bytes] = field(default_factory=dict)
    acls: dict[str, str] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    uniform_access: bool = False
    failures: list[int] = field(default_factory=list)
    """Statuses of the next answers."""
    requests: list[tuple[str, str]] = field(default_factory=list)


def _tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'  # noqa: S324 - as GCS does


class FakeGcs(http.server.BaseHTTPRequestHandler):
    """PUT, GET, HEAD and DELETE of objects and the listing, with the headers that clients rely on.

    https://cloud.google.com/storage/docs/xml-api/reference-methods
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    bucket: ClassVar[Bucket]

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = self._key()
        if key is None or self._fails():
            return
        if "x-goog-acl" in self.headers and self.bucket.uniform_access:
            text = "Cannot insert legacy ACL for an object when uniform bucket-level access is enabled."
            self._refuse(400, "InvalidArgument", text)
            return
        self.bucket.objects[key] = body
        self.bucket.acls[key] = self.headers.get("x-goog-acl", "project-private")
        self.bucket.types[key] = self.headers.get("Content-Type", "")
        self._answer(200, b"", key)

    def do_GET(self) -> None:
        key = self._key()
        if key is None or self._fails():
            return
        if not key:
            self._list()
        elif key in self.bucket.objects:
            self._object(key)
        else:
            self._refuse(404, "NoSuchKey", "The specified key does not exist.")

    def _object(self, key: str) -> None:
        """Answer with the object, or with the range of it that is asked for."""
        content, asked = self.bucket.objects[key], re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if self.headers.get("If-Match", _tag(content)) != _tag(content):
            self._refuse(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        elif not asked:
            self._answer(200, content, key)
        elif int(asked[1]) >= len(content):
            self._refuse(416, "InvalidRange", "The requested range cannot be satisfied.")
        else:
            part = content[int(asked[1]) : int(asked[2]) + 1]
            self._answer(206, part, key, f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        key = self._key()
        if key is not None and not self._fails():
            self._answer(204 if self.bucket.objects.pop(key, None) is not None else 404, b"")

    def _key(self) -> str | None:
        """Return the object's name, empty for the bucket itself; None, and the answer sent, for another bucket."""
        bucket, _, key = urlsplit(self.path).path.removeprefix("/").partition("/")
        self.bucket.requests.append((self.command, unquote(key)))
        if unquote(bucket) != BUCKET:
            self._refuse(404, "NoSuchBucket", "The specified bucket does not exist.")
            return None
        return unquote(key)

    def _fails(self) -> bool:
        if not self.bucket.failures:
            return False
        self._refuse(self.bucket.failures.pop(0), "Trouble", "as asked for by the test")
        return True

    def _list(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        prefix = query.get("prefix", [""])[0]
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(content)}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, content in sorted(self.bucket.objects.items())
            if key.startswith(prefix)
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode())

    def _refuse(self, status: int, code: str, text: str) -> None:
        self._answer(
            status, f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        )

    def _answer(self, status: int, body: bytes, key: str | None = None, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if part:
            self.send_header("Content-Range", part)
        if key is not None:
            self.send_header("ETag", _tag(self.bucket.objects[key]))
            self.send_header("Last-Modified", formatdate(0, usegmt=True))
            self.send_header("x-goog-generation", "1")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeGcs)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    key = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    FakeGcs.bucket = Bucket()
    return FakeGcs.bucket


def open_gcs(endpoint: str, name: str = BUCKET, **options: str | float) -> ObjectStorage:
    chosen = StorageOptions(endpoint=endpoint, retry_seconds=5, max_backoff=0.05)
    return open_storage(f"gs://{name}", replace(chosen, **options))  # type: ignore[arg-type] # names of options


class TestGcs(StorageExam):
    @pytest.fixture
    def storage(self, endpoint: str, bucket: Bucket) -> Storage:  # noqa: ARG002 - a bucket of its own for each test
        return open_gcs(endpoint)

    def place(self, storage: Storage, key: str, content: bytes) -> None:  # noqa: ARG002 - the server is asked
        FakeGcs.bucket.objects[key] = content

    def stored(self, storage: Storage, key: str) -> bytes:  # noqa: ARG002 - the server is asked
        return FakeGcs.bucket.objects[key]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "result.zip").write_bytes(b"zip")
    return tmp_path / "result.zip"


def test_only_results_are_public(endpoint: str, bucket: Bucket, result: Path) -> None:
    storage = open_gcs(endpoint)
    assert storage.public_results
    storage.upload(result)
    storage.upload(result, "children")
    storage.deposit(result)
    (result.parent / "frame.tif").write_bytes(b"tif")
    storage.upload(result.parent / "frame.tif")
    storage.download("output/result.zip", result.parent)
    public = [key for key, acl in bucket.acls.items() if acl != "project-private"]
    assert (public, bucket.acls["output/result.zip"]) == (["output/result.zip"], "public-read")
    assert len(bucket.acls) == 4
    assert bucket.types["output/result.zip"] == "application/zip"


@pytest.mark.parametrize("options", [{"acl": "private"}, {"urls": "signed"}])
def test_public_results_can_be_switched_off(endpoint: str, bucket: Bucket, options: dict[str, str]) -> None:
    assert not open_gcs(endpoint, **options).public_results
    assert bucket.requests == []


def test_private_results_carry_no_permission_at_all(endpoint: str, bucket: Bucket, result: Path) -> None:
    open_gcs(endpoint, acl="private").upload(result)
    assert bucket.acls == {"output/result.zip": "project-private"}


def test_a_bucket_with_uniform_access_gets_results_without_permissions(
    endpoint: str, bucket: Bucket, result: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bucket.uniform_access = True
    storage = open_gcs(endpoint)
    for _ in range(2):
        storage.upload(result)
    assert bucket.objects == {"output/result.zip": b"zip"}
    assert [method for method, _ in bucket.requests] == ["PUT", "PUT", "PUT"]  # refused once, then known
    assert caplog.text.count("OUTPUT_ACL=private") == 1


def test_the_url_is_the_one_that_the_kiosk_wrote() -> None:
    storage = open_storage("gs://deepcell-output")
    assert storage.url("output/a b,ü.zip") == "https://storage.googleapis.com/deepcell-output/output/a%20b%2C%C3%BC.zip"


def test_trouble_that_passes_is_waited_for_in_place(endpoint: str, bucket: Bucket, result: Path) -> None:
    bucket.failures = [503, 429, 500]
    open_gcs(endpoint).upload(result)
    assert bucket.objects == {"output/result.zip": b"zip"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_final(endpoint: str, bucket: Bucket, tmp_path: Path, status: int) -> None:
    bucket.failures = [status] * 3
    with pytest.raises(AccessDenied, match=r"The storage refuses access to 'uploads/x\.tif'"):
        open_gcs(endpoint).download("uploads/x.tif", tmp_path)
    assert len(bucket.requests) == 1
    with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is 'gs://kiosk-bucket': the credentials are refused"):
        open_gcs(endpoint).check()


def test_a_missing_bucket_is_told_from_a_missing_object(endpoint: str, bucket: Bucket, result: Path) -> None:
    storage = open_gcs(endpoint, "another-bucket", retry_seconds=0.01)
    with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is 'gs://another-bucket': there is no such bucket"):
        storage.check()
    for action in (lambda: storage.upload(result), lambda: storage.download("uploads/x.tif", result.parent)):
        with pytest.raises(StorageUnavailable, match=r"The bucket 'gs://another-bucket' does not exist"):
            action()
    assert bucket.objects == {}


def test_a_signed_link_is_made_with_the_service_accounts_key(monkeypatch: pytest.MonkeyPatch) -> None:
    private = rsa.generate_private_key(65537, 2048)
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key = {
        "type": "service_account",
        "client_email": "worker@project",
        "private_key": private.private_bytes(*encoding).decode(),
        "private_key_id": "1",
    }
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(key))
    url = open_storage("gs://kiosk-bucket", StorageOptions(urls="signed")).url("output/a b.zip")
    assert url.startswith("https://storage.googleapis.com/kiosk-bucket/output/a%20b.zip?")
    query = parse_qs(urlsplit(url).query)
    assert query["X-Goog-Credential"][0].startswith("worker@project/")
    assert (query["X-Goog-Expires"], query["X-Goog-SignedHeaders"]) == (["604800"], ["host"])

"""A storage in trouble: cut connections, silence, errors that pass and errors that stay; links that are signed."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from moto.server import ThreadedMotoServer

from redis_consumer.errors import AccessDenied, RetryJob, SettingsError, StorageUnavailable
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 3 * 2**20
OK = f"HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\nETag: x\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n"
WHOLE = OK.encode() + bytes(SIZE)


def error(status: int, code: str = "Trouble") -> bytes:
    body = f"<Error><Code>{code}</Code></Error>"
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@dataclass
class Server:
    """A server that gives scripted answers, one for each connection; the last one again and again."""

    answers: list[bytes] = field(default_factory=list)
    hold: bool = False
    """Whether to keep a connection open after its answer, saying nothing more."""
    asked: int = 0
    port: int = 0

    def serve(self, listener: socket.socket, stop: threading.Event) -> None:
        held = []
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            connection.settimeout(5)
            _read_request(connection)
            answer = self.answers[min(self.asked, len(self.answers) - 1)]
            self.asked += 1
            connection.sendall(answer)
            if self.hold:
                held.append(connection)
            else:
                connection.close()
        for connection in held:
            connection.close()


def _read_request(connection: socket.socket) -> None:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(65536)
    head, _, body = head.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(lengths[0].split(b":")[1]) - len(body) if lengths else 0
    while missing > 0:
        missing -= len(connection.recv(65536))


@pytest.fixture
def server() -> Iterator[Server]:
    stop, scripted = threading.Event(), Server()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        scripted.port = listener.getsockname()[1]
        thread = threading.Thread(target=scripted.serve, args=(listener, stop), daemon=True)
        thread.start()
        yield scripted
        stop.set()
        thread.join(timeout=10)


def open_s3(port: int, *, retry_seconds: float = 5, stall_seconds: float = 30) -> ObjectStorage:
    options = StorageOptions(
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="any",
        secret_access_key="any",  # noqa: S106 - nobody checks it
        retry_seconds=retry_seconds,
        stall_seconds=stall_seconds,
        max_backoff=0.05,
    )
    return open_storage("s3://kiosk-bucket", options)


@pytest.fixture
def result(tmp_path: Path) -> Path:
    (tmp_path / "result.zip").write_bytes(b"zip")
    return tmp_path / "result.zip"


def test_errors_that_pass_are_waited_for(server: Server, tmp_path: Path) -> None:
    server.answers = [error(500), error(503, "SlowDown"), error(429), WHOLE]
    open_s3(server.port).download("uploads/x.tif", tmp_path)
    assert (tmp_path / "x.tif").stat().st_size == SIZE
    assert server.asked == 4


def test_a_cut_download_is_begun_again_and_arrives_whole(server: Server, tmp_path: Path) -> None:
    server.answers = [WHOLE[: SIZE // 2], b"", WHOLE]
    open_s3(server.port).download("uploads/x.tif", tmp_path)
    assert (tmp_path / "x.tif").read_bytes() == bytes(SIZE)


def test_a_download_that_never_arrives_whole_leaves_no_file(server: Server, tmp_path: Path) -> None:
    server.answers = [WHOLE[: SIZE // 2]]
    with pytest.raises(StorageUnavailable, match="The storage does not answer: no connection"):
        open_s3(server.port, retry_seconds=0.2).download("uploads/x.tif", tmp_path)
    assert not (tmp_path / "x.tif").exists()


def test_a_download_that_stands_still_is_given_up(server: Server, tmp_path: Path) -> None:
    server.answers, server.hold = [WHOLE[: SIZE // 2]], True
    begun = time.monotonic()
    with pytest.raises(StorageUnavailable):
        open_s3(server.port, retry_seconds=0.1, stall_seconds=0.3).download("uploads/x.tif", tmp_path)
    assert time.monotonic() - begun < 60
    assert not (tmp_path / "x.tif").exists()


def test_an_upload_is_tried_again(server: Server, result: Path) -> None:
    server.answers = [error(503), b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: x\r\n\r\n"]
    assert open_s3(server.port).upload(result).key == "output/result.zip"
    assert server.asked == 3


def test_nobody_there_means_later(tmp_path: Path, result: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    storage = open_s3(port, retry_seconds=0.2)
    for action in (
        lambda: storage.download("uploads/x.tif", tmp_path),
        lambda: storage.upload(result),
        storage.check,
    ):
        with pytest.raises(StorageUnavailable, match="The storage does not answer: no connection") as caught:
            action()
        assert str(port) not in str(caught.value)
        assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "RequestTimeout"),
        (403, "RequestTimeTooSkewed"),
        (400, "ExpiredToken"),
        (409, "OperationAborted"),
        (403, "SlowDown"),
        (407, "X"),
    ],
)
def test_what_passes_by_itself_is_tried_again_whatever_its_status(
    server: Server, tmp_path: Path, status: int, code: str
) -> None:
    server.answers = [error(status, code)]
    with pytest.raises(StorageUnavailable):
        open_s3(server.port, retry_seconds=0.5).download("uploads/x.tif", tmp_path)
    assert server.asked > 1


@pytest.mark.parametrize(("status", "code"), [(403, "AccessDenied"), (401, "X"), (400, "InvalidToken"), (405, "X")])
def test_refusals_are_final_and_asked_once(server: Server, tmp_path: Path, status: int, code: str) -> None:
    server.answers = [error(status, code)]
    with pytest.raises(AccessDenied, match=r"The storage refuses access to 'uploads/x\.tif'"):
        open_s3(server.port).download("uploads/x.tif", tmp_path)
    assert server.asked == 1


def test_a_bucket_elsewhere_is_a_wrong_setting(server: Server) -> None:
    server.answers = [error(301, "PermanentRedirect")]
    with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is 's3://kiosk-bucket': .*AWS_REGION"):
        open_s3(server.port).check()


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_refused_credentials_stop_the_start(server: Server, code: str) -> None:
    server.answers = [error(403, code)]
    with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is 's3://kiosk-bucket': the credentials are refused"):
        open_s3(server.port).check()


def test_a_missing_bucket_stops_the_start(server: Server) -> None:
    server.answers = [error(404, "NoSuchBucket")]
    with pytest.raises(SettingsError, match="there is no such bucket"):
        open_s3(server.port).check()


def test_a_name_cannot_pass_for_a_missing_bucket(server: Server, tmp_path: Path) -> None:
    server.answers = [error(404, "NoSuchKey")]
    with pytest.raises(Exception, match="is not in the bucket"):
        open_s3(server.port).download("uploads/NoSuchBucket.tif", tmp_path)
    assert server.asked == 1


def test_a_disk_that_cannot_be_written_is_the_workers_fault(server: Server, tmp_path: Path) -> None:
    server.answers = [WHOLE]
    (tmp_path / "x.tif").mkdir()
    with pytest.raises(RetryJob, match="The worker cannot write the download"):
        open_s3(server.port).download("uploads/x.tif", tmp_path)


@pytest.mark.parametrize("nothing", ["", "specify_me", "NA", "na"])
def test_words_for_no_value_leave_the_keys_to_the_chain(
    server: Server, nothing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The chain's answer here is a pod's identity, as on EKS; the charts write such words into the environment."""
    for name in ("AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, nothing)
    keys = b'{"AccessKeyId": "pod", "SecretAccessKey": "x", "Token": "t", "Expiration": "2999-01-01T00:00:00Z"}'
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(keys), keys)]
    (tmp_path / "token").write_text("token")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"http://127.0.0.1:{server.port}/keys")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    options = StorageOptions(
        endpoint="http://127.0.0.1:1",
        urls="signed",
        region=nothing,
        access_key_id=nothing,
        secret_access_key=nothing,
        retry_seconds=0.1,
    )
    url = open_storage("s3://kiosk-bucket", options).url("output/x.zip")
    assert "X-Amz-Credential=pod%2F" in url
    assert "%2Fus-east-1%2F" in url


def test_a_signed_link_of_s3_opens_without_credentials(tmp_path: Path, result: Path) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        _, port = server.get_host_and_port()
        bucket = urllib.request.Request(f"http://127.0.0.1:{port}/kiosk-bucket", method="PUT")
        urllib.request.urlopen(bucket, timeout=10).close()  # noqa: S310 - our own server
        options = StorageOptions(
            endpoint=f"http://127.0.0.1:{port}",
            access_key_id="any",
            secret_access_key="any",  # noqa: S106 - moto takes any
            urls="signed",
        )
        storage = open_storage("s3://kiosk-bucket", options)
        upload = storage.upload(result)
        assert f"http://127.0.0.1:{port}/kiosk-bucket/output/result.zip?" in upload.url
        with urllib.request.urlopen(upload.url, timeout=10) as reply:  # noqa: S310 - our own server
            assert reply.read() == b"zip"
            assert reply.headers["Content-Type"] == "application/zip"
        assert storage.download(upload.url, tmp_path / "back") == str(tmp_path / "back/result.zip")
        with pytest.raises(SettingsError, match="there is no such bucket"):
            open_storage("s3://another-bucket", options).check()
    finally:
        server.stop()


def removal(code: str) -> bytes:
    """Return S3's answer to a request to remove many objects of which one stays."""
    body = (
        "<DeleteResult><Deleted><Key>output/a.tif</Key></Deleted><Error><Key>output/b.tif</Key>"
        f"<Code>{code}</Code><Message>Access Denied</Message></Error></DeleteResult>"
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


@pytest.mark.parametrize("answer", [removal("AccessDenied"), error(403, "AccessDenied")])
def test_a_bucket_that_lets_nobody_remove_is_not_asked_again(server: Server, answer: bytes) -> None:
    server.answers = [answer]
    with pytest.raises(AccessDenied):
        open_s3(server.port).remove(["output/a.tif", "output/b.tif"])
    assert server.asked == 1


def test_a_removal_that_fails_for_now_is_tried_again(server: Server) -> None:
    server.answers = [error(503), removal("InternalError"), removal("AccessDenied")]
    with pytest.raises(AccessDenied):
        open_s3(server.port).remove(["output/a.tif", "output/b.tif"])
    assert server.asked == 3

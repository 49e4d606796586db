"""Azure Blob Storage: the exam against Azurite, Microsoft's emulator, installed from npm into `node_modules/`.

Skipped where there is no npm or no registry.  Proved are requests, signatures, signed links and refusals as Azurite
sees them; identities other than the account key (managed identity, workload identity) are not.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pytest

from redis_consumer.errors import SettingsError, StorageUnavailable
from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.testing.storage import StorageExam

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.storage.base import Storage

pytestmark = pytest.mark.timeout(400)  # the first run installs Azurite

HOME = Path(__file__).resolve().parent / "node_modules"
ACCOUNT = "devstoreaccount1"
# Azurite's published key of its one account; it opens nothing else.
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@contextmanager
def alone() -> Iterator[None]:
    """Keep the other processes of a parallel test run from installing at the same time."""
    with Path(tempfile.gettempdir(), "redis-consumer-azurite.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def azurite_blob() -> Path:
    """Return Azurite's program, installed if need be; skip with the reason if it cannot be had."""
    program = HOME / ".bin/azurite-blob"
    if program.exists():
        return program
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("no npm and node for Azurite")
    options = ["--no-save", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=0"]
    try:
        run = subprocess.run(
            [npm, "install", *options, "--prefix", str(HOME.parent), "azurite@3"],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm did not install Azurite within 180 s")
    if run.returncode or not program.exists():
        pytest.skip(f"npm cannot install Azurite: {run.stderr.strip().splitlines()[:1]}")
    return program


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with alone():
        program = azurite_blob()
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location", str(folder)]
    server = subprocess.Popen(
        [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(timeout=10)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"Azurite ended with {server.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail("Azurite did not listen within 60 s")


@pytest.fixture(scope="module")
def container(endpoint: str) -> str:
    """Make the container, which obstore cannot, with a request signed by the account's key.

    https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
    """
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-08-06", "Content-Length": "0"}
    signed = f"x-ms-date:{headers['x-ms-date']}\nx-ms-version:{headers['x-ms-version']}\n"
    text = "PUT" + "\n" * 12 + signed + f"/{ACCOUNT}/{ACCOUNT}/kiosk\nrestype:container"
    mac = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), "sha256")).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{mac}"
    request = urllib.request.Request(f"{endpoint}/kiosk?restype=container", method="PUT", headers=headers)  # noqa: S310 - our own server
    with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - the same
        return "kiosk"


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)


def open_azure(endpoint: str, container: str = "kiosk", urls: str = "plain") -> ObjectStorage:
    options = StorageOptions(endpoint=endpoint, urls=urls, retry_seconds=3, max_backoff=0.05)
    return open_storage(f"az://{container}", options)


class TestAzure(StorageExam):
    @pytest.fixture
    def storage(self, endpoint: str, container: str) -> Storage:
        return open_azure(endpoint, container)

    def place(self, storage: Storage, key: str, content: bytes) -> None:
        assert isinstance(storage, ObjectStorage)
        obstore.put(storage._writer, key, content)

    def stored(self, storage: Storage, key: str) -> bytes:
        assert isinstance(storage, ObjectStorage)
        return bytes(obstore.get(storage._reader, key).bytes())


def test_a_missing_container_stops_the_start(endpoint: str, tmp_path: Path) -> None:
    storage = open_azure(endpoint, "another")
    with pytest.raises(SettingsError, match=r"STORAGE_BUCKET is 'az://another': there is no such bucket"):
        storage.check()
    with pytest.raises(StorageUnavailable, match=r"The bucket 'az://another' does not exist"):
        storage.download("uploads/x.tif", tmp_path)


@pytest.mark.usefixtures("container")
def test_a_wrong_key_stops_the_start(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"wrong").decode())
    with pytest.raises(SettingsError, match="the credentials are refused"):
        open_azure(endpoint).check()


@pytest.mark.usefixtures("container")
def test_a_signed_link_opens_without_credentials(endpoint: str, tmp_path: Path) -> None:
    (tmp_path / "result.zip").write_bytes(b"zipped")
    upload = open_azure(endpoint, urls="signed").upload(tmp_path / "result.zip")
    with urllib.request.urlopen(upload.url, timeout=10) as reply:  # noqa: S310 - our own server
        assert reply.read() == b"zipped"
        assert reply.headers["Content-Type"] == "application/zip"
    plain = open_azure(endpoint).url(upload.key)
    assert plain == f"{endpoint}/kiosk/output/result.zip"
    with pytest.raises(urllib.error.HTTPError, match=r"HTTP Error 40\d"):
        urllib.request.urlopen(plain, timeout=10)  # noqa: S310 - our own server

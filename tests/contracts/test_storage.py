"""Each kind of storage that needs no foreign program sits the exam; so does moto's S3 server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import obstore
import pytest
from moto.server import ThreadedMotoServer

from redis_consumer.storage.clients import StorageOptions
from redis_consumer.storage.object_store import ObjectStorage, open_storage
from redis_consumer.testing.storage import StorageExam

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis_consumer.storage.base import Storage


class ObjectStorageExam(StorageExam):
    def place(self, storage: Storage, key: str, content: bytes) -> None:
        assert isinstance(storage, ObjectStorage)
        obstore.put(storage._writer, key, content)

    def stored(self, storage: Storage, key: str) -> bytes:
        assert isinstance(storage, ObjectStorage)
        return bytes(obstore.get(storage._reader, key).bytes())


class TestMemory(ObjectStorageExam):
    @pytest.fixture
    def storage(self) -> Storage:
        return open_storage("memory://")


class TestFolder(StorageExam):
    @pytest.fixture
    def storage(self, tmp_path_factory: pytest.TempPathFactory) -> Storage:
        return open_storage(f"file://{tmp_path_factory.mktemp('bucket')}")

    def place(self, storage: Storage, key: str, content: bytes) -> None:
        assert isinstance(storage, ObjectStorage)
        path = Path(storage.bucket.name, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def stored(self, storage: Storage, key: str) -> bytes:
        assert isinstance(storage, ObjectStorage)
        return Path(storage.bucket.name, key).read_bytes()


@pytest.fixture(scope="module")
def s3_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with urlopen(Request(f"{url}/kiosk-bucket", method="PUT"), timeout=10):  # noqa: S310 - our own server
        pass
    yield url
    server.stop()


class TestS3(ObjectStorageExam):
    @pytest.fixture
    def storage(self, s3_endpoint: str) -> Storage:
        options = StorageOptions(endpoint=s3_endpoint, access_key_id="any", secret_access_key="any")  # noqa: S106 - moto takes any
        return open_storage("s3://kiosk-bucket", options)

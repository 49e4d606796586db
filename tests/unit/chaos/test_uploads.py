from __future__ import annotations

from typing import TYPE_CHECKING

from tests.acceptance.bench import BUCKET, Programs, put
from tests.chaos import uploads

if TYPE_CHECKING:
    from pathlib import Path


def test_the_servers_own_log_says_what_was_stored(tmp_path: Path) -> None:
    with Programs(tmp_path / "s3") as programs:
        log = programs.start_s3().log
        put(f"{programs.endpoint}/{BUCKET}/output/a.zip", b"a")
        assert uploads.read(log) == {"output/a.zip"}


def test_a_refused_upload_is_none() -> None:
    line = f'127.0.0.1 - - [24/Nov/2026 06:00:00] "PUT /{BUCKET}/output/a.zip HTTP/1.1" %d -\n'
    assert uploads.stored(line % 500) == set()
    assert uploads.stored(line % 200) == {"output/a.zip"}
    assert uploads.stored((line % 200).replace("PUT", "GET")) == set()

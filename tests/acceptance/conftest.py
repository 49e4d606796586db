"""One bench for all tests of a run; what its processes printed is shown where a test fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.acceptance.bench import Bench, text_of

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from redis_consumer.demo.stack import Child

LAST_CHARACTERS = 3000


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    with Bench(tmp_path_factory.mktemp("bench")) as running:
        yield running


@pytest.fixture(scope="session")
def image_worker(bench: Bench) -> Child:
    return bench.worker("image-7f4b", QUEUE="image", CONSUMER_TYPE="image")


@pytest.fixture(scope="session")
def segmentation_worker(bench: Bench) -> Child:
    return bench.worker("segmentation-9c1d", QUEUE="segmentation", CONSUMER_TYPE="segmentation")


@pytest.fixture(scope="session")
def folder_worker(bench: Bench) -> Child:
    """Works on the default queue with the default consumer; its bucket is a folder."""
    return bench.worker("predict-0a2e", STORAGE_BUCKET=bench.local_url)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = getattr(item, "funcargs", {}).get("bench")
    if report.failed and isinstance(running, Bench):
        report.sections += [(child.name, text_of(child)[-LAST_CHARACTERS:]) for child in running.programs]
    return report

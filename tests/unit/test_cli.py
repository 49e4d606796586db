from __future__ import annotations

import json
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from redis_consumer import bootstrap, cli
from redis_consumer.cli.jobs import files_and_fields
from redis_consumer.cli.worker import stop_on_signals
from redis_consumer.client import Client
from redis_consumer.demo import run as demo_module
from redis_consumer.demo.stack import neutral_environ
from redis_consumer.errors import MissingExtra, QueueUnavailable, SettingsError, StorageUnavailable
from redis_consumer.queues.memory import MemoryBroker, MemorySubmitter
from redis_consumer.serving import server as serving_module
from redis_consumer.storage.object_store import open_storage
from redis_consumer.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from redis_consumer.errors import ConsumerError
    from redis_consumer.settings import Settings


@pytest.fixture(autouse=True)
def environ() -> Iterator[None]:
    """An environment without any setting of ours, as it was before afterwards."""
    before = dict(os.environ)
    neutral = neutral_environ()
    for name in before.keys() - neutral.keys():
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """`run` and `serve-models` send the log to stdout."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    (tmp_path / "bucket").mkdir()
    return tmp_path / "bucket"


@pytest.fixture
def settings(broker: MemoryBroker, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The commands of submitters work in memory; returns the settings that they asked with."""
    seen: list[Settings] = []

    def build_client(settings: Settings) -> Client:
        seen.append(settings)
        return Client(MemorySubmitter(broker), open_storage(bucket.as_uri()))

    monkeypatch.setattr(bootstrap, "build_client", build_client)
    return seen


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "cells.tif"
    path.write_bytes(b"pixels")
    return path


class FakeWorker:
    """A worker that stops at once."""

    def __init__(self) -> None:
        self.stops: list[bool] = []
        self.ran = False

    def run(self) -> None:
        self.ran = True

    def stop(self, *, at_once: bool = False) -> None:
        self.stops.append(at_once)


@pytest.fixture
def signals() -> Iterator[None]:
    """Whatever a test does to the handlers of signals is undone."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class TestMain:
    @pytest.mark.parametrize(
        "words",
        [
            [],
            ["no-such-command"],
            ["run", "--set"],
            ["run", "a.tif"],
            ["settings", "--json", "x"],
            ["submit"],
            ["submit", "a.tif", "--timeout", "soon"],
            ["submit", "a.tif", "--no-such", "b.tif"],
        ],
    )
    def test_wrong_use_is_exit_code_2_and_a_usage_line(
        self, words: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
        assert "usage: redis-consumer" in capsys.readouterr().err

    @pytest.mark.parametrize("command", ["run", "submit", "status", "demo", "serve-models", "settings"])
    def test_every_command_helps_with_examples(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert f"redis-consumer {command}" in capsys.readouterr().out.partition("examples:")[2]

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (SettingsError("QUEUE is 'a b': no\nPORT is 'x': no"), 2, "redis-consumer: PORT is 'x': no\n"),
            (MissingExtra("The demo", "demo"), 2, "pip install 'kiosk-redis-consumer[demo]'\n"),
            (QueueUnavailable("Redis does not answer"), 1, "redis-consumer: Redis does not answer\n"),
            (PermissionError(13, "Permission denied", "out"), 1, "Permission denied: 'out'\n"),
            (KeyboardInterrupt(), 130, ""),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
    )
    def test_errors_are_lines_and_exit_codes(
        self,
        error: BaseException,
        code: int,
        line: str,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def build_client(_settings: Settings) -> Client:
            raise error

        monkeypatch.setattr(bootstrap, "build_client", build_client)
        assert cli.main(["status", "q:a:1"]) == code
        err = capsys.readouterr().err
        assert err.endswith(line)
        assert all(text.startswith("redis-consumer: ") for text in err.splitlines())

    def test_a_bug_is_not_hidden(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def build_client(_settings: Settings) -> Client:
            raise ZeroDivisionError

        monkeypatch.setattr(bootstrap, "build_client", build_client)
        with pytest.raises(ZeroDivisionError):
            cli.main(["status", "q:a:1"])

    def test_tells_its_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            cli.main(["--version"])
        assert capsys.readouterr().out.startswith("redis-consumer ")


class TestRun:
    @pytest.fixture
    def worker(self, monkeypatch: pytest.MonkeyPatch, signals: None) -> FakeWorker:  # noqa: ARG002 - a fixture's order
        fake = FakeWorker()
        monkeypatch.setattr(bootstrap, "build_worker", lambda _: fake)
        return fake

    def test_works_until_it_is_told_to_stop(self, worker: FakeWorker, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", "--set", "QUEUE=nuclei", "--set", "HOSTNAME=pod-1"]) == 0
        assert worker.ran
        assert "Takes image jobs from the queue 'nuclei' as 'pod-1'" in capsys.readouterr().out

    def test_logs_as_much_as_it_is_asked_to(self, worker: FakeWorker, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", "--set", "LOG_LEVEL=WARNING"]) == 0
        assert worker.ran
        assert capsys.readouterr().out == ""

    def test_a_signal_drains_and_a_second_one_hands_back_at_once(self, worker: FakeWorker) -> None:
        class Drained(Worker):
            def __init__(self) -> None:
                super().__init__([])

            def stop(self, *, at_once: bool = False, because: ConsumerError | None = None) -> None:
                assert because is None
                worker.stop(at_once=at_once)

        stop_on_signals(Drained())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert worker.stops == [False, True, True]

    def test_settings_come_from_set_then_the_environment_then_the_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: FakeWorker
    ) -> None:
        built: list[Settings] = []

        def build_worker(settings: Settings) -> FakeWorker:
            built.append(settings)
            return worker

        monkeypatch.setattr(bootstrap, "build_worker", build_worker)
        (tmp_path / "env").write_text("QUEUE=from-file\nTF_HOST=from-file\nREDIS_HOST=from-file\nTF_PORT=8501\n")
        os.environ.update(TF_HOST="from-environment", REDIS_HOST="from-environment", TF_PORT=" ")
        assert cli.main(["run", "--env-file", str(tmp_path / "env"), "--set", "REDIS_HOST=from-set"]) == 0
        chosen = built[0]
        assert (chosen.queue, chosen.tf_host, chosen.redis_host) == ("from-file", "from-environment", "from-set")
        assert chosen.tf_port == 8501

    def test_a_consumer_finds_its_own_variables_in_the_environment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: FakeWorker
    ) -> None:
        seen: dict[str, str] = {}

        def build_worker(_settings: Settings) -> FakeWorker:
            seen.update(os.environ)  # the consumer is imported in here
            return worker

        monkeypatch.setattr(bootstrap, "build_worker", build_worker)
        (tmp_path / "env").write_text("LAB_MODEL=file\nLAB_MODE=file\nLAB_BLANK=file\nQUEUE=file\nTF_HOST=file\n")
        os.environ.update(LAB_MODE="environment", LAB_BLANK="", TF_HOST="environment")
        assert cli.main(["run", "--env-file", str(tmp_path / "env"), "--set", "TF_HOST=set", "--set", "TF_PORT="]) == 0
        expected = {"LAB_MODEL": "file", "LAB_MODE": "environment", "LAB_BLANK": "file", "QUEUE": "file"}
        assert {name: seen[name] for name in expected} == expected
        assert seen["TF_HOST"] == "set"
        assert "TF_PORT" not in seen  # blank is "not set"

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["--set", "QUEUE"], "--set is 'QUEUE': allowed is NAME=VALUE"),
            (["--set", "QUEU=a"], "QUEU is no setting; did you mean QUEUE?"),
            (["--set", "CONCURRENCY=many"], "CONCURRENCY is 'many'; allowed is"),
            (["--env-file", "absent.env"], "The env file 'absent.env' cannot be read: No such file or directory"),
        ],
    )
    def test_a_wrong_setting_stops_the_start(
        self, words: list[str], line: str, worker: FakeWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["run", *words]) == 2
        assert not worker.ran
        assert capsys.readouterr().err.startswith(f"redis-consumer: {line}")


@pytest.mark.usefixtures("settings")
class TestSubmit:
    def test_prints_the_name_of_each_job(
        self, broker: MemoryBroker, image: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["submit", str(image), str(image), "--queue", "segmentation", "scale=0.5"]) == 0
        assert capsys.readouterr().out.splitlines() == list(reversed(broker.queues["segmentation"]))
        assert [fields["scale"] for fields in broker.jobs.values()] == ["0.5", "0.5"]

    def test_takes_the_queue_of_the_settings_if_none_is_named(
        self, broker: MemoryBroker, image: Path, settings: list[Settings]
    ) -> None:
        assert cli.main(["submit", str(image), "--set", "QUEUE=nuclei", "--set", "REDIS_HOST=here"]) == 0
        assert len(broker.queues["nuclei"]) == 1
        assert settings[0].redis_host == "here"

    def test_takes_what_is_in_the_bucket_already(self, broker: MemoryBroker, bucket: Path) -> None:
        assert cli.main(["submit", "input_file_name=uploads/slide.zarr", "--queue", "mesmer", "scale=0.5"]) == 0
        (fields,) = broker.jobs.values()
        assert fields["input_file_name"] == "uploads/slide.zarr"
        assert fields["original_name"] == "slide.zarr"
        assert fields["scale"] == "0.5"
        assert not any(bucket.iterdir())

    def test_json_is_a_list_of_objects(
        self, broker: MemoryBroker, image: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["submit", str(image), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == [{"job": key} for key in broker.jobs]

    def test_waits_for_jobs_that_are_done_and_fetches_their_results(
        self, broker: MemoryBroker, bucket: Path, image: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        (bucket / "output").mkdir()
        (bucket / "output" / "1.zip").write_bytes(b"PK")
        finish(broker, {"status": "done", "output_file_name": "output/1.zip", "output_url": "file://1.zip"})
        assert cli.main(["submit", str(image), "--output", str(tmp_path / "results"), "--json"]) == 0
        row = json.loads(capsys.readouterr().out)[0]
        assert row["status"] == "done"
        assert row["file"] == str(tmp_path / "results" / "cells.zip")
        assert Path(row["file"]).read_bytes() == b"PK"

    def test_a_job_that_fails_is_exit_code_1_and_its_reason(
        self, broker: MemoryBroker, image: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        finish(broker, {"status": "failed", "reason": "The image is empty"})
        assert cli.main(["submit", str(image), "--output", str(tmp_path / "results")]) == 1
        job, status, reason = capsys.readouterr().out.rstrip("\n").split("\t")
        assert (job in broker.jobs, status, reason) == (True, "failed", "The image is empty")

    def test_jobs_that_are_on_their_way_are_named_though_a_later_one_is_not(
        self, broker: MemoryBroker, image: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        submit, left = Client.submit, [None]

        def once(self: Client, path: Path, queue: str, fields: dict[str, str]) -> str:
            if not left:
                raise StorageUnavailable("The storage does not answer")
            left.pop()
            return submit(self, path, queue, fields)

        monkeypatch.setattr(Client, "submit", once)
        assert cli.main(["submit", str(image), str(image), "--wait"]) == 1
        shown = capsys.readouterr()
        assert shown.out.splitlines() == list(broker.jobs)
        assert shown.err == "redis-consumer: The storage does not answer\n"

    def test_a_job_that_takes_too_long_is_exit_code_1(self, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["submit", str(image), "--wait", "--timeout", "0"]) == 1
        assert "1 jobs are not done after 0 s" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            (["absent.tif"], "'absent.tif' is neither a file nor field=value"),
            (
                ["scale=1"],
                "no FILE is given: expected is at least one image, or input_file_name=KEY for one in the bucket",
            ),
        ],
    )
    def test_wrong_arguments_push_nothing(
        self, words: list[str], line: str, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["submit", *words]) == 2
        assert capsys.readouterr().err == f"redis-consumer: {line}\n"
        assert not broker.jobs


def finish(broker: MemoryBroker, fields: Mapping[str, str]) -> None:
    """Make every job of `broker` final as soon as somebody reads it."""

    class Finished(dict[str, dict[str, str]]):
        def get(self, key: str, default: Any = None) -> Any:
            return self[key] | dict(fields) if key in self else default

    broker.jobs = Finished()


class TestFilesAndFields:
    def test_a_file_is_a_file_whatever_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("scale=2.tif").touch()
        assert files_and_fields(["scale=2.tif", "scale=0.5"]) == ([Path("scale=2.tif")], {"scale": "0.5"})

    def test_a_value_may_be_blank_or_hold_signs(self, image: Path) -> None:
        _, fields = files_and_fields([str(image), "channels=", "label=a=b c"])
        assert fields == {"channels": "", "label": "a=b c"}

    @pytest.mark.parametrize("word", ["Scale=1", "=1", "a b=1", "folder/x=1"])
    def test_a_field_has_the_name_of_one(self, word: str, image: Path) -> None:
        with pytest.raises(SettingsError, match="is neither a file nor field=value"):
            files_and_fields([str(image), word])

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SettingsError, match="is neither a file"):
            files_and_fields([str(tmp_path)])


@pytest.mark.usefixtures("settings")
class TestStatus:
    @pytest.mark.parametrize(
        ("fields", "line", "code"),
        [
            ({"status": "done", "output_url": "file:///x.zip"}, "done\tfile:///x.zip", 0),
            ({"status": "predicting", "reason": ""}, "predicting", 0),
            ({"status": "failed", "reason": "bad"}, "failed\tbad", 1),
        ],
    )
    def test_tells_each_job_in_a_line(
        self,
        broker: MemoryBroker,
        fields: dict[str, str],
        line: str,
        code: int,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        broker.jobs["q:a:1"] = fields
        assert cli.main(["status", "q:a:1"]) == code
        assert capsys.readouterr().out == f"q:a:1\t{line}\n"

    def test_a_job_that_is_not_there_is_said_and_exit_code_1(
        self, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        broker.jobs["q:a:1"] = {"status": "done"}
        assert cli.main(["status", "q:a:1", "q:b:2"]) == 1
        assert capsys.readouterr().out == "q:a:1\tdone\nq:b:2\tmissing\tthere is no such job\n"

    def test_json_has_every_field(self, broker: MemoryBroker, capsys: pytest.CaptureFixture[str]) -> None:
        broker.jobs["q:a:1"] = {"status": "done", "predict_retries": "0"}
        assert cli.main(["status", "q:a:1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == [{"job": "q:a:1", "status": "done", "predict_retries": "0"}]


class TestOthers:
    def test_settings_are_printed_with_their_source(self, capsys: pytest.CaptureFixture[str]) -> None:
        os.environ["REDIS_PASSWORD"] = "hunter2"  # noqa: S105 - made up
        assert cli.main(["settings", "--set", "QUEUE=nuclei", "--json"]) == 0
        out = capsys.readouterr().out
        rows = {row["name"]: row for row in json.loads(out)}
        assert (rows["QUEUE"]["value"], rows["QUEUE"]["source"]) == ("nuclei", "--set")
        assert rows["REDIS_PASSWORD"]["source"] == "environment"
        assert "hunter2" not in out

    def test_settings_are_a_table_for_people(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["settings"]) == 0
        assert "  QUEUE " in capsys.readouterr().out

    def test_the_demo_gets_its_images_and_gives_its_exit_code(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[tuple[list[Path], Path, str, bool]] = []

        def run_demo(images: list[Path], output: Path, *, kind: str, keep: bool) -> int:
            calls.append((images, output, kind, keep))
            return 1

        monkeypatch.setattr(demo_module, "run_demo", run_demo)
        assert cli.main(["demo"]) == 1
        assert cli.main(["demo", "a.tif", "--output", "found", "b.tif", "--keep"]) == 1
        assert cli.main(["demo", "--type", "zip", "a.zip"]) == 1
        assert calls == [
            ([], Path("demo-output"), "segmentation", False),
            ([Path("a.tif"), Path("b.tif")], Path("found"), "segmentation", True),
            ([Path("a.zip")], Path("demo-output"), "zip", False),
        ]

    def test_the_model_server_announces_where_it_listens(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        given: dict[str, object] = {}

        def serve(directory: Path, *, announce: Callable[[str], None], **options: object) -> None:
            given.update(options, directory=directory)
            announce("listening on 127.0.0.1:8501")

        monkeypatch.setattr(serving_module, "serve_models", serve)
        assert cli.main(["serve-models", "models", "--port", "8501", "--max-batch-size", "8"]) == 0
        assert capsys.readouterr().out == "listening on 127.0.0.1:8501\n"
        assert given == {
            "directory": Path("models"),
            "host": "127.0.0.1",
            "port": 8501,
            "max_batch_size": 8,
            "max_in_flight": 4,
            "threads": 2,
        }

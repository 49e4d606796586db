"""What the demo shows."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from redis_consumer.consumers.children import failures_field
from redis_consumer.demo.display import Board, Row, failure_lines, results_table, waited
from redis_consumer.demo.kinds.base import Found
from redis_consumer.demo.score import Score

DONE = {
    "status": "done",
    "created_at": "2026-11-23T10:00:00.000Z",
    "finished_at": "2026-11-23T10:00:05.500000+00:00",
    "total_time": "4.25",
    "prediction_time": "2.5",
    "postprocess_time": "0.755",
}
FAILED = {"status": "failed", "reason": "The image 'b.tif' cannot be read: it is empty"}


def console(*, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=160, force_terminal=terminal, markup=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_waiting_is_what_lies_before_the_claim() -> None:
    assert waited(DONE) == "1.25"


@pytest.mark.parametrize("gone", ["created_at", "finished_at", "total_time"])
def test_waiting_is_unknown_without_its_fields(gone: str) -> None:
    assert waited({name: text for name, text in DONE.items() if name != gone}) == "-"


def test_the_table_has_every_image() -> None:
    rows = [
        Row("a", Path("a.tif"), DONE, Found("512 x 256", 14, Score(13, 14, 14)), Path("out/a.zip")),
        Row("b [red]", Path("b.tif"), FAILED),
    ]
    out = console()
    out.print(results_table(rows, "nuclei"))
    lines = printed(out).splitlines()
    [good] = [line.split() for line in lines if "out/a.zip" in line]
    assert good == ["a", "512", "x", "256", "14", "0.929", "1.25", "2.50", "0.76", "out/a.zip"]
    [bad] = [line for line in lines if "b [red]" in line]
    assert bad.split("failed: ")[1].strip() == FAILED["reason"]


def test_a_reason_names_the_image_and_not_the_upload() -> None:
    fields = {"input_file_name": "uploads/5f0c.tif", "reason": "The image '5f0c.tif' cannot be read"}
    assert Row("a", Path("my/a.tif"), fields).reason == "The image 'a.tif' cannot be read"


def test_without_truth_there_is_no_score() -> None:
    out = console()
    out.print(results_table([Row("a", Path("a.tif"), DONE, Found("8 x 8", 1), Path("a.zip"))], "spots"))
    assert "F1" not in printed(out)
    assert "spots" in printed(out)


def test_a_batch_has_the_seconds_of_all_its_images() -> None:
    out = console()
    fields = {**DONE, "prediction_time": "0.5,1.25", "total_time": "1,2"}
    out.print(results_table([Row("a", Path("a.zip"), fields, Found("2 images", 1), Path("a.zip"))], "nuclei"))
    assert "1.75" in printed(out)


def batch(failed: int, of: int) -> Row:
    reasons = {f"segmentation:d/{number}.tif:5f": f"{number} & bad, 100%" for number in range(failed)}
    told = {"children:failed": ",".join(reasons), "failures": failures_field(reasons), "total_jobs": str(of)}
    return Row("a", Path("a.zip"), {**DONE, **told}, Found("2 images", 1), Path("out/a.zip"))


def test_a_batch_tells_how_many_of_its_images_failed_and_which() -> None:
    out, row = console(), batch(2, of=3)
    out.print(results_table([row], "nuclei"))
    assert "2 of 3 images failed" in printed(out)
    assert "out/a.zip" in printed(out)
    assert [line.plain for line in failure_lines(row)] == [
        "a: d/0.tif failed: 0 & bad, 100%",
        "a: d/1.tif failed: 1 & bad, 100%",
    ]
    assert row.done
    assert not row.whole


def test_of_many_failures_the_first_are_told() -> None:
    lines = failure_lines(batch(2000, of=2000))
    assert len(lines) == 21
    assert lines[-1].plain == "a: 1980 more failed"


def test_a_batch_without_failures_says_nothing_of_them() -> None:
    out, row = console(), batch(0, of=3)
    out.print(results_table([row], "nuclei"))
    assert "failed" not in printed(out)
    assert failure_lines(row) == []
    assert row.whole


def test_each_new_status_is_a_line_where_there_is_no_terminal() -> None:
    out = console()
    board = Board(out, {"key": "cells"})
    with board.shown():
        news = [board.look("key", {"status": status}) for status in ("new", "started", "started", "done")]
    assert news == [False, True, False, True]
    assert [line.split()[-1] for line in printed(out).splitlines()] == ["started", "done"]


def test_progress_is_news_but_no_line() -> None:
    out = console()
    board = Board(out, {"key": "cells"})
    board.look("key", {"status": "predicting"})
    assert board.look("key", {"status": "predicting", "progress": "50"})
    assert len(printed(out).splitlines()) == 1


def test_a_terminal_shows_the_last_state() -> None:
    out = console(terminal=True)
    board = Board(out, {"one": "cells", "two": "[bold]"})
    with board.shown():
        board.look("one", {"status": "done", "progress": "100"})
        board.look("two", {"status": "predicting", "progress": "50"})
    end = printed(out).splitlines()[-4:]
    assert any("cells" in line and "done" in line for line in end)
    assert any("[bold]" in line and "50 %" in line for line in end)


def test_a_low_terminal_shows_what_is_in_work_first() -> None:
    out = Console(file=io.StringIO(), width=80, height=5, force_terminal=True)
    board = Board(out, {str(number): f"image-{number}" for number in range(9)})
    for number in range(4):
        board.look(str(number), {"status": "done"})
    board.look("4", {"status": "predicting"})
    out.print(board.render())
    lines = printed(out).splitlines()
    assert len(lines) == 4
    assert "image-4" in lines[0]
    assert "image-5" in lines[1]
    assert "4 of 9" in lines[-1]

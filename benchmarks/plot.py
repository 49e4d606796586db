"""Draw docs/images/performance.png from results/bench.json: where the time of a job goes, how near the bound it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs/images/performance.png"
STAGES = {
    "download_time": ("download and decode", "#4c78a8"),
    "preprocess_time": ("pre-processing", "#72b7b2"),
    "prediction_time": ("prediction", "#eeca3b"),
    "postprocess_time": ("post-processing", "#f58518"),
    "upload_time": ("zip and upload", "#b279a2"),
}
WIDTH, MARGIN, LABELS, BAR, GAP = 1200, 40, 330, 26, 10
INK, PALE, LINE = "#222222", "#dddddd", "#888888"
FONT, SMALL, TITLE = (ImageFont.load_default(size) for size in (18, 15, 22))
GOAL = 0.85

Row = dict[str, Any]


def main() -> None:
    """Draw it."""
    rows: list[Row] = json.loads((HERE / "results/bench.json").read_text("utf-8"))["efficiency"]
    alone = [row for row in rows if (row["lanes"], row["processes"], row["batch_ms"]) == (1, 1, 0)]
    picture = Image.new("RGB", (WIDTH, 260 + (BAR + GAP) * (len(alone) + len(rows))), "white")
    draw = ImageDraw.Draw(picture)
    top = stages(draw, MARGIN, alone)
    efficiencies(draw, top + MARGIN, rows)
    picture.save(PICTURE, optimize=True)


def stages(draw: ImageDraw.ImageDraw, top: int, rows: list[Row]) -> int:
    """Draw a bar for each row, its stages behind each other; return where it ends."""
    draw.text((MARGIN, top), "Where the time of a job goes: one lane, a model that answers at once", INK, TITLE)
    left, top = MARGIN, top + 40
    for name, color in STAGES.values():
        draw.rectangle((left, top + 3, left + 14, top + 17), color)
        draw.text((left + 22, top), name, INK, SMALL)
        left += 50 + int(draw.textlength(name, SMALL))
    top += 36
    room = WIDTH - LABELS - MARGIN
    for row in rows:
        times: dict[str, float] = row["wall_ms_per_job"]
        total = sum(times[stage] for stage in STAGES)
        draw.text((MARGIN, top + 2), f"{row['size']} x {row['size']}: {total:.0f} ms", INK, FONT)
        start = float(LABELS)
        for stage, (_, color) in STAGES.items():
            width = room * times[stage] / total
            draw.rectangle((start, top, start + width, top + BAR), color)
            label = f"{times[stage]:.0f}"
            if width > draw.textlength(label, SMALL) + 6:
                draw.text((start + width / 2, top + BAR / 2), label, INK, SMALL, anchor="mm")
            start += width
        top += BAR + GAP
    return top


def efficiencies(draw: ImageDraw.ImageDraw, top: int, rows: list[Row]) -> None:
    """Draw the efficiency of each row as a bar; pale is what the cores that others left would have allowed."""
    title = "Jobs per second as a share of the bound, by processes x lanes (pale: of what other programs left)"
    draw.text((MARGIN, top), title, INK, TITLE)
    top += 44
    room = WIDTH - LABELS - MARGIN
    bottom = top + len(rows) * (BAR + GAP)
    for row in rows:
        reached, left_over = (min(row[name], 1.0) for name in ("efficiency", "efficiency_of_cores_left"))
        draw.text((MARGIN, top + 2), told(row), INK, SMALL)
        draw.rectangle((LABELS, top, LABELS + room * left_over, top + BAR), PALE)
        draw.rectangle((LABELS, top, LABELS + room * reached, top + BAR), "#4c78a8")
        draw.text((LABELS + 8, top + BAR / 2), f"{row['efficiency']:.2f}", "white", SMALL, anchor="lm")
        top += BAR + GAP
    goal = LABELS + room * GOAL
    draw.line((goal, bottom - len(rows) * (BAR + GAP) - 4, goal, bottom), LINE, 2)
    draw.text((goal, bottom + 2), f"{GOAL}", LINE, SMALL, anchor="mt")


def told(row: Row) -> str:
    """Return what a row is about."""
    server = f"{row['batch_ms']} ms a batch" if row["batch_ms"] else "at once"
    workers = f"{row['processes']} x {row['lanes']}"
    return f"{row['size']} px, {server}, {workers} lanes"


if __name__ == "__main__":
    main()

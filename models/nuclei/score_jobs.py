"""Scores of label images that `segmentation` jobs left, as `evaluate.py` computes them.

::

    redis-consumer demo $(python score_jobs.py --data DIR --list) --output found
    python score_jobs.py --data DIR --found found
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from evaluate import Scores
from skimage.io import imread


def main() -> None:
    """Print the validation images, or the scores of their results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with images/, labels/, split.json")
    parser.add_argument("--list", action="store_true", help="print the paths of the validation images")
    parser.add_argument("--found", type=Path, help="folder that `redis-consumer demo` wrote")
    arguments = parser.parse_args()
    split = json.loads((arguments.data / "split.json").read_text())
    names = sorted(name for name, part in split.items() if part == "val")
    if arguments.list:
        print("\n".join(str(arguments.data / "images" / f"{name}.png") for name in names))
        return
    scores = Scores()
    for name in names:
        truth = imread(arguments.data / "labels" / f"{name}.png").astype(np.int32)
        scores.add(truth, imread(arguments.found / f"{name}_labels.tif").astype(np.int32))
    print(scores)


if __name__ == "__main__":
    main()

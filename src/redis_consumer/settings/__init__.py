"""The settings of one run: `Settings.from_environ(os.environ)`, read once by whoever starts the program.

Consumers written for the original program read ``settings.TF_HOST`` from this module; they still can.
"""

import os
import re
from typing import Any

from redis_consumer.settings.old import old_value
from redis_consumer.settings.reading import read_env_file
from redis_consumer.settings.render import Row, render_json, render_text
from redis_consumer.settings.schema import Settings

__all__ = ["Row", "Settings", "read_env_file", "render_json", "render_text"]


def __getattr__(name: str) -> Any:
    """Return the value of a variable in capitals, read from the environment now (PEP 562)."""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return old_value(name, os.environ)


def _strip(x: str) -> str:
    """Return a bucket's path without the slashes at its ends: the old module's name, which old consumers use."""
    return x.strip("/")

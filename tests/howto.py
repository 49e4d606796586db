"""The code of docs/howto/custom-consumer.md, so that tests run what people copy."""

from __future__ import annotations

import re
from pathlib import Path

HOWTO = Path(__file__).resolve().parents[1] / "docs/howto/custom-consumer.md"


def howto_blocks(language: str) -> list[str]:
    """Return the blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", HOWTO.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)

"""The code of the pages in docs/howto, so that tests run what people copy."""

from __future__ import annotations

import re
from pathlib import Path

HOWTO = Path(__file__).resolve().parents[1] / "docs/howto"


def howto_blocks(language: str, page: str = "custom-consumer") -> list[str]:
    """Return the blocks of one language on a page, in order."""
    text = (HOWTO / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

"""The table of what was found."""

from collections.abc import Iterable
from typing import Any


def table(found: Iterable[dict[str, Any]]) -> str:
    return "\n".join(str(one.get("figures")) for one in found)

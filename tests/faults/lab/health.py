"""Asking a supervisor how it is."""

import json
import urllib.error
import urllib.request
from typing import Any


def ask(port: int, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that ``--health`` answers; 0 when nobody does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
    except OSError:
        return 0, {}


def is_ready(port: int) -> bool:
    return ask(port, "/ready")[0] == 200

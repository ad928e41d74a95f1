"""What a benchmark prints: as JSON, or in a page between `<!-- name -->` and `<!-- /name -->`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from slicemq.errors import StoreError

ROOT = Path(__file__).resolve().parent.parent
PERFORMANCE = ROOT / "docs" / "explanation" / "performance.md"
IMAGES = ROOT / "docs" / "images"


def put(page: str, name: str, text: str) -> str:
    """`page` with `text` in its region `name`. Raises StoreError when it has no such region, or several."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        raise StoreError(f"region {name}: expected one line {begin.strip()} and one line {end} after it")
    head, _, rest = page.partition(begin)
    return f"{head}{begin}{text.strip()}\n{end}{rest.partition(end)[2]}"


def write_region(name: str, text: str, page: Path = PERFORMANCE) -> None:
    """Replace the region `name` of a page. Raises StoreError that names the page."""
    try:
        page.write_text(put(page.read_text(), name, text))
    except OSError as error:
        raise StoreError(f"{page}: {error.strerror}") from error
    except StoreError as error:
        raise StoreError(f"{page}: {error}") from error


def as_json(body: Any) -> str:
    """The text of `body`; null for numbers that JSON has not, such as NaN for what was not measured."""
    return json.dumps(_finite(body), indent=2, allow_nan=False)


def _finite(body: Any) -> Any:
    if isinstance(body, dict):
        return {key: _finite(value) for key, value in body.items()}
    if isinstance(body, list | tuple):
        return [_finite(value) for value in body]
    return None if isinstance(body, float) and not math.isfinite(body) else body

"""The documents: links lead somewhere, what benchmarks fill is filled, and no machine's own paths are named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DOCUMENTS = [_ROOT / "README.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"!?\[[^\]\[]*\]\(([^()\s]+)\)")
_HEADING = re.compile(r"#{1,6} +(.*?) *#* *\Z")
_CODE = re.compile(r"`+[^`\n]*`+")
# A part that a benchmark prints: <!-- x --> ... <!-- /x -->, or <!-- x: begin --> ... <!-- x: end -->.
_FILLED = re.compile(
    r"<!-- (?P<name>[\w-]+)(?:: begin)? -->(?P<body>.*?)<!-- (?:/(?P=name)|(?P=name): end) -->", re.S
)
_MACHINE_PATH = re.compile(r"(?<![\w/.~-])/(?:work|root)(?![\w-])")

documents = pytest.mark.parametrize("page", _DOCUMENTS, ids=lambda page: str(page.relative_to(_ROOT)))


def _prose(text: str) -> list[str]:
    """The lines that are not in a fenced block."""
    lines, fence = [], ""
    for line in text.splitlines():
        mark = re.match(r" *(```+|~~~+)", line)
        if fence:
            if mark is not None and mark.group(1).startswith(fence):
                fence = ""
        elif mark is not None:
            fence = mark.group(1)
        else:
            lines.append(line)
    return lines


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    anchors = set()
    for line in _prose(page.read_text(encoding="utf-8")):
        heading = _HEADING.match(line)
        if heading is None:
            continue
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1)).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        anchors.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return anchors


def _broken(page: Path) -> list[str]:
    broken = []
    for target in _LINK.findall(
        "\n".join(_CODE.sub("", line) for line in _prose(page.read_text(encoding="utf-8")))
    ):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.is_relative_to(_ROOT) or not there.exists():
            broken.append(f"{target}: not there")
        elif anchor and (there.suffix != ".md" or anchor not in _anchors(there)):
            broken.append(f"{target}: no such heading")
    return broken


@documents
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    assert _broken(page) == []


@documents
def test_every_part_that_a_benchmark_fills_is_filled(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    empty = [part.group("name") for part in _FILLED.finditer(text) if not part.group("body").strip()]
    assert empty == []


@documents
def test_no_path_of_a_single_machine_is_named(page: Path) -> None:
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    assert [f"{number}: {line}" for number, line in lines if _MACHINE_PATH.search(line)] == []


def test_links_that_lead_nowhere_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n## 1. The `first`: part\n\n"
        "[a](#1-the-first-part) [b](other.md#2-x) [c](gone.md) [d](page.md#gone)\n"
        "[e](https://example.org/#x) `[f](code.md)`\n```\n## 2. x\n[g](block.md)\n```\n"
    )
    (tmp_path / "other.md").write_text("## 1. x\n```\n## 2. x\n```\n")
    monkeypatch.setattr(f"{__name__}._ROOT", tmp_path)
    assert _broken(page) == [
        "other.md#2-x: no such heading",
        "gone.md: not there",
        "page.md#gone: no such heading",
    ]


def test_documents_are_found() -> None:
    assert len(_DOCUMENTS) > 10

"""Links between the project's pages lead to a file and a heading, on a forge and from messages of the code."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

import pytest

from rempart.docsgen.site_pages import is_internal, links
from tests.unit.docsgen.blocks import ROOT, pages, read

PAGES = sorted({*pages(), *(f"docs/adr/{file.name}" for file in (ROOT / "docs" / "adr").glob("*.md")), "CHANGELOG.md"})
CODE = ("include", "dags", "plugins", "bench", "tests", "deploy")
ELSEWHERE = frozenset(("docs/storage/oss/oss.md", "docs/storage/oss/concepts.md"))
"""Paths in addresses of other projects."""


def slug(heading: str) -> str:
    """The anchor that a forge gives to a heading."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


@cache
def anchors(page: str) -> frozenset[str]:
    found: list[str] = []
    prose = re.sub(r"^ *```.*?^ *```$", "", read(page), flags=re.M | re.S)
    for heading in re.findall(r"^#{1,6} +(.*?)#* *$", prose, re.M):
        name = slug(heading)
        found.append(f"{name}-{found.count(name)}" if name in found else name)
    return frozenset((*found, *re.findall(r'(?:id|name)="([^"]+)"', prose)))


def dead(page: str, target: str) -> str:
    """What is wrong with a link of a page; empty if it leads somewhere."""
    path, _, anchor = target.partition("#")
    file = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if not (ROOT / file).exists():
        return f"{target}: there is no {file}"
    if anchor and file.endswith(".md") and anchor not in anchors(file):
        return f"{target}: {file} has no such heading"
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_each_link_of_a_page_leads_to_a_file_and_a_heading(page: str) -> None:
    text = read(page)
    targets = [target for target in links(text) if is_internal(target)]
    targets += [target for target in re.findall(r"^\[[^\]]+\]: +(\S+)", text, re.M) if is_internal(target)]
    assert [fault for target in targets if (fault := dead(page, target))] == []


def mentions() -> list[tuple[str, str]]:
    """Each file of code and configuration with the pages that it names as docs/....md, as messages do."""
    here = Path(__file__).parent
    files = [file for folder in CODE for file in (ROOT / folder).rglob("*") if file.is_file() and file.parent != here]
    files += [ROOT / name for name in ("rempart.yaml", "Makefile", "docker-compose.yml", "Dockerfile", ".env.example")]
    found = []
    for file in files:
        if file.suffix not in (".py", ".yaml", ".yml", ".sql", ".html", ".cfg", ".toml", ".txt", ".sh", "", ".service"):
            continue
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:  # a test that runs beside this one puts DAG files there, and takes them away
            continue
        named = re.findall(r"(?<![\w/.-])docs/[\w/-]+\.md(?:#[\w-]+)?", text)
        found += [(str(file.relative_to(ROOT)), target) for target in dict.fromkeys(named)]
    return found


def test_each_page_that_the_code_names_is_there() -> None:
    named = mentions()
    assert len(named) > 60
    dead_ones = {
        file: fault for file, target in named if target not in ELSEWHERE and (fault := dead("README.md", target))
    }
    assert dead_ones == {}


def test_a_dead_link_is_found() -> None:
    assert dead("docs/glossary.md", "how-to/nowhere.md")
    assert dead("docs/glossary.md", "how-to/keys.md#no-such-heading")
    assert not dead("docs/glossary.md", "how-to/keys.md#1-make-two-recipients")
    assert slug("1. `rempart up`, and *down*: is it [there](x.md)?") == "1-rempart-up-and-down-is-it-there"


def test_links_in_blocks_of_code_do_not_count() -> None:
    assert links("[a](b.md)\n```sh\n[c](d.md)\n```\n[![e](f.png)](g.md)\n") == ["b.md", "g.md", "f.png"]
    assert is_internal("x.md#y") and not is_internal("https://x.md")

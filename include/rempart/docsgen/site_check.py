"""What is wrong with a built site: links that lead nowhere, and whatever a browser would fetch from another host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_FETCHED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("use", "href")}
_LOADERS = frozenset(("mermaid", "glightbox", "pyodide"))
"""Classes of elements for which the theme's script fetches a library from another host."""
_HARMLESS_LINKS = frozenset(("canonical", "next", "prev", "alternate"))


class BuiltPage(HTMLParser):
    """The anchors of a page, its links, and the addresses that a browser fetches to show it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.fetched += [f"https://unpkg.com/{name}" for name in _LOADERS & set(values.get("class", "").split())]
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in _HARMLESS_LINKS:
            return
        self.fetched += [value for name, value in values.items() if (tag, name) in _FETCHED]


def faults(folder: Path) -> list[str]:
    """Return what is wrong, one line each: page, address, cause."""
    pages = {file: BuiltPage(file.read_text(encoding="utf-8")) for file in sorted(folder.rglob("*.html"))}
    found = [f"{file.relative_to(folder)}: {line}" for file, page in pages.items() for line in _of_page(file, pages)]
    for file in sorted(folder.rglob("*.css")):
        addresses = re.findall(r"(?:url\(|@import )['\"]?([a-z]+://|//)([^'\")]*)", file.read_text(encoding="utf-8"))
        found += [f"{file.relative_to(folder)}: fetches {scheme}{rest}" for scheme, rest in addresses]
    return found


def _of_page(file: Path, pages: dict[Path, BuiltPage]) -> Iterator[str]:
    for address in pages[file].fetched:
        parts = urlsplit(address)
        if parts.netloc:
            yield f"a browser would fetch {address}"
        elif parts.scheme != "data" and parts.path and not (file.parent / unquote(parts.path)).is_file():
            yield f"{address} does not exist"
    for link in pages[file].links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
        if target.is_dir():
            target /= "index.html"
        if not target.is_file():
            yield f"{link} leads to no file"
        elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
            yield f"{link} leads to no heading"

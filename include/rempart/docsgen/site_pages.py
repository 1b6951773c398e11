"""The pages of the documentation's site: their order, and what changes between a page of docs/ and a page of the site.

Pages are written to be read on a forge. The site gets copies in which links that leave docs/ lead to copies of those
files, the first paragraph is a box, and the notes for tests are gone.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from rempart.errors import ConfigError
from rempart.settings import plain_yaml

NAVIGATION = PurePosixPath("docs", "site", "navigation.yaml")
DECISIONS = "Decisions"
DECISIONS_PAGE = "docs/adr/README.md"
_FENCE = re.compile(r"^[ ]*(```|~~~)")
_ITEM = re.compile(r"^(- |\* |\d+\. )")
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
_COMMENT = re.compile(r"^[ ]*<!--.*?-->\n+", re.MULTILINE | re.DOTALL)
_BOX = re.compile(r"^(\*\*For\*\* (?:.+\n)*?.+)\n\n", re.MULTILINE)


@dataclass(frozen=True)
class NavigationEntry:
    """A page of the navigation with its title, or a section with its entries. `page` is a path in the project."""

    title: str
    page: str = ""
    entries: tuple[NavigationEntry, ...] = ()

    def pages(self) -> Iterator[str]:
        """Return the pages of this entry, in order."""
        if self.page:
            yield self.page
        for entry in self.entries:
            yield from entry.pages()


def decisions(root: Path) -> list[tuple[str, str]]:
    """Return file and title of each decision in docs/adr, by number."""
    found = []
    for file in sorted((root / "docs" / "adr").glob("[0-9]*.md")):
        heading = next((line for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")), "")
        title = re.sub(r"^# *(ADR )?\d+[.:]? *", "", heading)
        found.append((file.name, f"{file.name[:4]}: {title}"))
    return found


def navigation(root: Path) -> tuple[NavigationEntry, ...]:
    """Return the navigation of docs/site/navigation.yaml, with the decisions at its end."""
    listed = plain_yaml.load((root / NAVIGATION).read_text(encoding="utf-8"))
    adrs = (NavigationEntry(title, f"docs/adr/{name}") for name, title in decisions(root))
    return (
        *map(_entry, listed),
        NavigationEntry(DECISIONS, entries=(NavigationEntry("All decisions", DECISIONS_PAGE), *adrs)),
    )


def _entry(listed: Mapping[str, Any]) -> NavigationEntry:
    ((title, inner),) = listed.items()
    if isinstance(inner, list):
        return NavigationEntry(title, entries=tuple(map(_entry, inner)))
    return NavigationEntry(title, posixpath.normpath(posixpath.join("docs", inner)))


def site_path(page: str) -> str:
    """Return where a page of the project is on the site: docs/how-to/keys.md is how-to/keys.md."""
    inside = page.removeprefix("docs/")
    return (
        inside
        if inside != page
        else posixpath.join("project", page.replace("/README.md", ".md").replace("/", "-").lower())
    )


def toml_navigation(entries: tuple[NavigationEntry, ...]) -> str:
    """Return the navigation as a TOML value."""
    return "[" + ", ".join(f"{{{_text(e.title)} = {_target(e)}}}" for e in entries) + "]"


def _target(entry: NavigationEntry) -> str:
    return _text(site_path(entry.page)) if entry.page else toml_navigation(entry.entries)


def _text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """Return a page with its prose changed and its blocks of code as they are."""
    parts: list[tuple[bool, list[str]]] = [(False, [])]
    fence = ""
    for line in text.splitlines(keepends=True):
        matched = _FENCE.match(line)
        if matched and not fence:
            fence = matched[1]
            parts.append((True, [line]))
        elif matched and matched[1] == fence:
            fence = ""
            parts[-1][1].append(line)
            parts.append((False, []))
        else:
            parts[-1][1].append(line)
    return "".join("".join(lines) if code else change("".join(lines)) for code, lines in parts)


def with_deep_lists(text: str) -> str:
    """Return a page for the builder, which needs four spaces before what belongs to an item, and a line before a list.

    A forge, and our pages, need two spaces after `- ` and three after `1. `, and no empty line.
    """
    lines: list[str] = []
    fence, shift = "", 0
    for line in text.splitlines(keepends=True):
        item = _ITEM.match(line)
        indented = line.startswith("  ")
        if not fence and line.strip() and not indented:
            shift = 4 - len(item[1]) if item else 0
        before = lines[-1] if lines else ""
        if not fence and item and before.strip() and not before.startswith(" ") and not _ITEM.match(before):
            lines.append("\n")
        if matched := _FENCE.match(line):
            fence = "" if matched[1] == fence else fence or matched[1]
        lines.append(" " * shift + line if indented and shift else line)
    return "".join(lines)


def links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures, outside of blocks of code."""
    found: list[str] = []

    def collect(prose: str) -> str:
        # a picture can be a link's text: both targets count
        for _, inner, target in _LINK.findall(prose):
            found.extend([target, *(target for _, _, target in _LINK.findall(inner))])
        return prose

    outside_fences(text, collect)
    return found


def is_internal(target: str) -> bool:
    """Return whether a link's target is a file or a heading of the project."""
    return not re.match(r"[a-z][a-z0-9+.-]*:|//", target)


class Staging:
    """Copies of the navigation's pages for the site, and of the files to which they lead."""

    def __init__(self, root: Path, folder: Path, entries: tuple[NavigationEntry, ...]) -> None:
        self._root, self._folder = root, folder
        self._pages = dict.fromkeys(page for entry in entries for page in entry.pages())

    def stage(self) -> int:
        """Write every page and file. Return the number of pages. Raises ConfigError for a missing page."""
        for page in self._pages:
            file = self._root / page
            if not file.is_file():
                raise ConfigError(f"{NAVIGATION} names {page}, which does not exist", "Correct the entry or remove it.")
            self._write(site_path(page), self.page(page, file.read_text(encoding="utf-8")).encode())
        return len(self._pages)

    def page(self, page: str, text: str) -> str:
        """Return the site's text of a page."""
        without = outside_fences(text, lambda prose: _COMMENT.sub("", prose))
        without = with_deep_lists(without)
        boxed = _BOX.sub(r"\1\n{: .answers }\n\n", without, count=1)
        return outside_fences(boxed, lambda prose: self._linked(page, prose))

    def _linked(self, page: str, prose: str) -> str:
        def change(matched: re.Match[str]) -> str:
            picture, text, target = matched.groups()
            text = _LINK.sub(change, text)
            if not is_internal(target) or target.startswith("#"):
                return f"{picture}[{text}]({target})"
            path, _, anchor = target.partition("#")
            new = self._target(posixpath.normpath(posixpath.join(posixpath.dirname(page), path)))
            if new is None:
                return text
            relative = posixpath.relpath(new, posixpath.dirname(site_path(page)) or ".")
            return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"

        return _LINK.sub(change, prose)

    def _target(self, path: str) -> str | None:
        """Return the site's path of a file of the project, which is copied; None for a folder."""
        if path in self._pages:
            return site_path(path)
        file = self._root / path
        if file.is_dir():
            return None
        if not file.is_file():
            return path  # the build in strict mode names the link
        plain = path.startswith("docs/") and not path.endswith(".md")
        # a browser shows text, and would run or download a program
        copy = posixpath.join("files", path.lstrip(".") + ("" if path.endswith(".json") else ".txt"))
        new = site_path(path) if plain else copy
        self._write(new, file.read_bytes())
        return new

    def _write(self, path: str, content: bytes) -> None:
        file = self._folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

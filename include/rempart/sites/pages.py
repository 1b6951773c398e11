"""Walk the pages of a listing in constant memory, and refuse a listing that repeats itself or does not end.

A page is identified by its continuation token and by its first and last entry. Both sequences go through Brent's cycle
detection (R. P. Brent, "An improved Monte Carlo factorization algorithm", BIT 20, 1980): it keeps one earlier page, and
finds every cycle after at most three times as many pages as the cycle and its beginning have. Endless pages of new
entries end at the configured maximum.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rempart.errors import ListingRefused
from rempart.settings.sections import MOST_LISTED

PAGE_COUNTS, EMPTY_COUNTS = 1_000, 10_000
"""Minimum entries that a page counts as, S3's own page size; an empty page counts as more."""
Page = Mapping[str, Any]


@dataclass
class Cycle:
    """Brent's detection of a cycle in a sequence."""

    _kept: Hashable = None
    _span: int = 1
    _since: int = 0

    def closes(self, item: Hashable) -> bool:
        """Take the next item. Return True if it equals the remembered one."""
        if item == self._kept:
            return True
        self._since += 1
        if self._since == self._span:
            self._kept, self._span, self._since = item, 2 * self._span, 0
        return False


@dataclass
class PageGuard:
    """Checks of one listing. `where` names the listing in errors; `most` is the maximum number of entries.

    `rising`: the server is proven to list in order, so an entry's sort key is never lower than the last one.
    """

    where: str
    site: str
    most: int = MOST_LISTED
    rising: bool = False
    _counted: int = 0
    _last: Any = None
    _marks: Cycle = field(default_factory=Cycle)
    _tokens: Cycle = field(default_factory=Cycle)

    def page(self, marks: Sequence[tuple[Any, Hashable]], token: Mapping[str, str], *, more: bool) -> None:
        """Check one page: each entry's sort key and identity, and the token of the next page. Raises ListingRefused."""
        if marks and self._marks.closes((marks[0], marks[-1])):
            raise self._refused("the listing returned the same page twice")
        if self.rising:
            self._check_order(marks)
        if not more:
            return
        if not token:
            raise self._refused("a page says that more follow, and names no next page")
        if self._tokens.closes(tuple(sorted(token.items()))):
            raise self._refused("the listing named the same next page twice")
        self._counted += max(len(marks), PAGE_COUNTS) if marks else EMPTY_COUNTS
        if self._counted >= self.most:
            raise ListingRefused(
                f"{self.where}: the listing does not end within {self.most:,} entries (a page counts as at least "
                f"{PAGE_COUNTS:,} entries, an empty page as {EMPTY_COUNTS:,})",
                f"If the bucket really holds so many objects, raise sites.{self.site}.most_listed in "
                "rempart.yaml. If it does not, the site's listing never ends: run `rempart site doctor "
                f"{self.site}`, and ask the operator.",
            )

    def _check_order(self, marks: Sequence[tuple[Any, Hashable]]) -> None:
        for mark in marks:
            last, self._last = self._last, mark
            if last is not None and (mark[0] < last[0] or mark == last):
                what = "came twice" if mark == last else f"came after {str(last[0])[:200]!r}"
                raise self._refused(f"{str(mark[0])[:200]!r} {what}, although this site was proven to list in order")

    def _refused(self, why: str) -> ListingRefused:
        return ListingRefused(
            f"{self.where}: {why}",
            f"The listing was not used. Retry. If it fails again, run `rempart site doctor {self.site}`, and show "
            "the result to the operator.",
        )


def walk(
    ask: Callable[[dict[str, str]], Page],
    follows: Mapping[str, str],
    marks: Callable[[Page], Sequence[tuple[Any, Hashable]]],
    guard: PageGuard,
) -> Iterator[Page]:
    """Yield every page of a listing after it was checked. Raises ListingRefused.

    `ask` gets the parameters of the next page. `follows` maps each parameter to its name in the last page's answer.
    `marks` returns the sort key and the identity of each entry of a page.
    """
    where: dict[str, str] = {}
    while True:
        page = ask(where)
        where = {name: str(page[name_in_page]) for name, name_in_page in follows.items() if page.get(name_in_page)}
        more = bool(page.get("IsTruncated"))
        guard.page(marks(page), where, more=more)
        yield page
        if not more:
            return

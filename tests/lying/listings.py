"""Faults of listings: empty, partial or stale ones, and pages that never end or come in a wrong order."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import cast

from tests.lying.messages import Answer, Request, entries, error, fact, page
from tests.lying.server import Fault, Lie, Upstream

LISTS = frozenset({"ListObjects", "ListObjectsV2", "ListObjectVersions"})
PAGE = 2
"""Entries of a page that a fault makes: a few objects are enough to have several pages."""


def shown(choose: Callable[[list[bytes]], list[bytes]]) -> Lie:
    """A listing that shows some of its entries, and claims that these are all."""

    def lie(request: Request, site: Upstream) -> Answer:
        answer = site.ask(request)
        return answer.with_body(page(answer.body, choose(entries(answer.body)))) if answer.status == 200 else answer

    return lie


def _tokens(request: Request, number: int, last: bytes) -> dict[str, str]:
    """What leads to the page of this number."""
    if request.operation == "ListObjectVersions":
        return {"NextKeyMarker": fact(last, "Key") or "k", "NextVersionIdMarker": f"page{number:08d}"}
    return {"NextContinuationToken": f"page{number:08d}"}


def _number(request: Request) -> int:
    """The number of the page that is asked for."""
    token = request.query.get("continuation-token") or request.query.get("version-id-marker") or ""
    found = re.fullmatch(r"page(\d+)", token)
    return int(found[1]) if found else 0


def paged(change: Callable[[int, list[list[bytes]]], tuple[list[bytes], int | None] | None]) -> Lie:
    """A listing in small pages of the fault's own.

    `change` gets the number of the page that is asked for and all true pages; it returns the page's entries and the
    number of the next page (None: the last), or None to fail with an internal error.
    """

    def lie(request: Request, site: Upstream) -> Answer:
        where, number = (request.operation, request.bucket, request.key), _number(request)
        if number == 0:
            answer = site.ask(request)
            if answer.status != 200:
                return answer
            with site.lock:
                site.memory[where] = answer
        with site.lock:
            answer = cast(Answer, site.memory[where])
        found = entries(answer.body)
        pages = [found[start : start + PAGE] for start in range(0, len(found), PAGE)] or [[]]
        if (changed := change(number, pages)) is None:
            return error(500, "InternalError")
        shown, after = changed
        return answer.with_body(
            page(answer.body, shown, None if after is None else _tokens(request, after, shown[-1] if shown else b""))
        )

    return lie


def _fails_in_the_middle(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None] | None:
    if number:
        return None
    return pages[0], 1 if len(pages) > 1 else None


def _loops(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None]:
    return pages[min(number, 1) % len(pages)], 1


def _fresh_tokens(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None]:
    return pages[0], number + 1


def _repeated_pages(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None]:
    return pages[number % min(len(pages), 3)], number + 1


def _falling(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None]:
    falling = [listed[::-1] for listed in reversed(pages)]
    return falling[number % len(falling)], number + 1


def _rising(number: int, pages: list[list[bytes]]) -> tuple[list[bytes], int | None]:
    """After the true pages, new keys for ever, in rising order."""
    if number < len(pages):
        return pages[number], number + 1
    like = next((listed[-1] for listed in reversed(pages) if listed), b"")
    made = [
        re.sub(rb"<Key>(.*?)</Key>", rb"<Key>~\g<1>-%012d</Key>" % (number * PAGE + more), like) for more in range(PAGE)
    ]
    return made if like else [], number + 1


def early_end(request: Request, site: Upstream) -> Answer:
    """The second page claims to be the last."""
    answer = site.ask(request)
    first = not {"continuation-token", "key-marker"} & request.query.keys()
    return answer if first or answer.status != 200 else answer.with_body(page(answer.body, entries(answer.body)))


def _half(found: list[bytes]) -> list[bytes]:
    return found[: len(found) // 2]


def _older_half(found: list[bytes]) -> list[bytes]:
    """Without the newer half, as a listing that lags behind."""
    newest = sorted(found, key=lambda entry: fact(entry, "LastModified"))[len(found) // 2 :]
    return [entry for entry in found if entry not in newest]


def refused(request: Request, site: Upstream) -> Answer:
    return error(403, "AccessDenied")


def unavailable(request: Request, site: Upstream) -> Answer:
    return error(500, "InternalError")


def error_under_200(request: Request, site: Upstream) -> Answer:
    return error(200, "InternalError", "We encountered an internal error. Please try again.")


def all_gone(request: Request, site: Upstream) -> Answer:
    """Everything that was there before is gone at once: listings are empty, and reads find nothing."""
    if request.operation in LISTS:
        return shown(lambda found: [])(request, site)
    return Answer(404) if request.method == "HEAD" else error(404, "NoSuchKey")


def faults() -> list[Fault]:
    """Every fault of this module. L8 is L1 at the target: the caller chooses the site."""
    return [
        Fault("I8-list", "a listing is answered by an error document under status 200", LISTS, error_under_200),
        Fault("L1-empty", "a listing is empty", LISTS, shown(lambda found: [])),
        Fault("L1-refused", "a listing is refused", LISTS, refused),
        Fault("L1-page", "the second page of a listing fails for ever", LISTS, paged(_fails_in_the_middle)),
        Fault("L1-loop", "the same page comes again and again", LISTS, paged(_loops)),
        Fault("L1-end", "the second page of a listing claims to be the last", LISTS, early_end),
        Fault("L1-partial", "a listing ends after its first half", LISTS, shown(_half)),
        Fault("L2-down", "no listing is answered", LISTS, unavailable),
        Fault("L7-tokens", "the same page for ever, with a fresh token each time", LISTS, paged(_fresh_tokens)),
        Fault("L7-pages", "the same pages in turn for ever, with fresh tokens", LISTS, paged(_repeated_pages)),
        Fault("L7-falling", "pages whose keys fall, for ever", LISTS, paged(_falling)),
        Fault("L7-rising", "new keys for ever", LISTS, paged(_rising)),
        Fault("L8-stale", "a listing lacks the newer half of the objects", LISTS, shown(_older_half)),
        Fault("L9-gone", "every object is gone at once", LISTS | {"GetObject", "HeadObject"}, all_gone),
    ]

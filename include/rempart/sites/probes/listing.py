"""Probes of listings: their order and pages, and keys that look like paths or escapes."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

from rempart.errors import ListingRefused
from rempart.sites.probes.scratch import Absent, FalseClaim, Scratch, busy, code, proves

ORDERED = ("0", "A", "Z", "_", "a b", "a!", "a-b", "a.b", "a/b", "a0", "aa", "z", "é", "日本", "\N{GRINNING FACE}")
"""Keys whose order by UTF-8 bytes differs from that by words, by case, or by folders."""
PAGED = 23
PER_PAGE = 4


@proves("listing order")
def order(at: Scratch) -> str:
    for name in ORDERED:
        at.put(f"order/{name}", b"x")
    found = at.names("order/")
    wanted = sorted((f"order/{name}" for name in ORDERED), key=lambda name: name.encode())
    if sorted(found) != sorted(wanted):
        raise FalseClaim(f"{len(wanted)} keys were written and {len(found)} entries are listed; the two sets differ")
    if found != wanted:
        at_fault = next(a for a, b in zip(found, wanted, strict=True) if a != b)
        raise Absent(f"keys are not listed in the order of their UTF-8 bytes, starting at {at_fault[:40]!r}")
    return f"{len(wanted)} keys of all kinds are listed in the order of their UTF-8 bytes"


@proves("listing pages")
def pages(at: Scratch) -> str:
    wanted = [f"page/{number:03}" for number in range(PAGED)]
    for name in wanted:
        at.put(name, b"x")
    for what, versions in (("objects", False), ("versions", True)):
        found: list[str] = []
        if versions and not at.versioned:
            continue
        try:
            for page in at.pages("page/", versions=versions, MaxKeys=PER_PAGE):
                if len(page) > PER_PAGE:
                    raise Absent(f"MaxKeys {PER_PAGE} is ignored: one page has {len(page)} {what}")
                found += page
                if len(found) > 2 * PAGED:
                    raise FalseClaim(f"{PAGED} {what} were written, and their listing does not end")
        except ListingRefused as refused:
            raise FalseClaim(f"pages of {what}: {refused.what.partition(': ')[2]}") from refused
        if found != wanted:
            raise FalseClaim(
                f"{PAGED} {what} were listed in pages of {PER_PAGE}: {len(found)} entries were returned, or their "
                "order is wrong"
            )
    after = at.names("page/", StartAfter=at.key(wanted[10]))
    if after != wanted[11:]:
        raise FalseClaim("StartAfter begins at the wrong key")
    return f"{PAGED} keys in pages of {PER_PAGE} were each listed once; a listing can start after a given key"


PATHS = ("a//b", "a/b", "trail/", "trail", "../x", "./y", "dual", "dual/b", "back\\slash", "back/slash")
ESCAPES = (
    "line\nbreak",
    "a+b",
    "a b",
    "100%25",
    "100%",
    "q?x=1&y=2#z",
    unicodedata.normalize("NFC", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
    unicodedata.normalize("NFD", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"),
)


@proves("path keys")
def path_keys(at: Scratch) -> str:
    return _kept_apart(at, "path/", PATHS)


@proves("escaped keys")
def escaped_keys(at: Scratch) -> str:
    return _kept_apart(at, "escape/", ESCAPES)


@proves("long keys")
def long_keys(at: Scratch) -> str:
    room = 1024 - len(at.key("long/").encode())
    return _kept_apart(at, "long/", ("n" * 256, "n" * room, "/".join(["n" * 200] * 4)))


def _kept_apart(at: Scratch, base: str, names: tuple[str, ...]) -> str:
    """Check that each key has its own body: write all, then read each, then list.

    One confused key is a false claim, whatever the other keys show. A busy site or an interrupted connection leaves the
    result open only if no key was confused.
    """
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    refused: dict[str, str] = {}
    for number, name in enumerate(names):
        try:
            at.put(base + name, b"%d" % number)
        except ParamValidationError as error:
            refused[name] = type(error).__name__
        except ClientError as error:
            if busy(error):
                raise
            refused[name] = code(error)
    changed: list[str] = []
    unanswered: Exception | None = None
    listed = set(_all_names(at, base))
    for number, name in enumerate(names):
        if name in refused:
            continue
        try:
            same = at.get(base + name) == b"%d" % number
        except FalseClaim:
            same = False
        except BotoCoreError as error:  # no connection, a cut one, or a body that was cut short
            unanswered = error
            continue
        except ClientError as error:
            if busy(error):
                unanswered = error
                continue
            same = False
        if not same or base + name not in listed:
            changed.append(name)
    if changed:
        raise FalseClaim(f"the site accepted these keys and confused them: {', '.join(map(_shown, changed))}")
    if unanswered:
        raise unanswered
    if refused:
        raise Absent(f"refused: {', '.join(f'{_shown(name)} ({why})' for name, why in refused.items())}")
    return f"{len(names)} such keys stay distinct when read and listed"


def _all_names(at: Scratch, below: str) -> list[str]:
    try:
        return [name for page in at.pages(below) for name in page]
    except ListingRefused as refused:
        raise FalseClaim(f"the keys cannot be listed: {refused.what.partition(': ')[2]}") from refused


def _shown(name: str) -> str:
    text = quote(name, safe="/+%?=&#\\ ")
    return repr(text if len(text) <= 24 else f"{text[:12]}... of {len(name.encode())} bytes")

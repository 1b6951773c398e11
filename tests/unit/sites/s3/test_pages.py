"""Listings end: a listing that repeats itself, goes back or never ends is refused, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rempart.errors import ListingRefused
from rempart.sites.capabilities import CapabilityRecord, Proof
from rempart.sites.pages import Cycle, PageGuard, walk
from rempart.sites.port import ObjectInfo
from rempart.sites.s3.site import S3Site
from tests.scripted_site import Answer, ScriptedRequest, scripted_site

PER_PAGE, MOST = 500, 20_000
Entries = Callable[[int], list[str]]


def page_of(asked: ScriptedRequest, number: int, keys: list[str]) -> Answer:
    """Page `number` of a listing that says that there is more, under a fresh token."""
    versions = "versions" in asked.query
    kind, root = ("Version", "ListVersionsResult") if versions else ("Contents", "ListBucketResult")
    entry = (
        "<{kind}><Key>{key}</Key><LastModified>2026-11-01T00:00:00Z</LastModified><ETag>&quot;0&quot;</ETag>"
        "<Size>1</Size><VersionId>{version}</VersionId></{kind}>"
    )
    entries = "".join(entry.format(kind=kind, key=key, version=f"v{key}") for key in keys)
    token = f"<NextContinuationToken>t{number}</NextContinuationToken>"
    if versions:
        token = f"<NextKeyMarker>k{number}</NextKeyMarker><NextVersionIdMarker>v{number}</NextVersionIdMarker>"
    return Answer(body=f"<{root}><IsTruncated>true</IsTruncated>{token}{entries}</{root}>".encode())


def fresh(number: int) -> list[str]:
    return [f"{number * PER_PAGE + offset:012}" for offset in range(PER_PAGE)]


def repeated(number: int) -> list[str]:
    return fresh(3 + number % 7)


def falling(number: int) -> list[str]:
    return [f"{10**11 - number * PER_PAGE - offset:012}" for offset in range(PER_PAGE)]


def empty(number: int) -> list[str]:
    return []


def consume(listing: Iterator[ObjectInfo]) -> int:
    return sum(1 for _ in listing)


@pytest.mark.parametrize("lister", ["list", "versions"])
@pytest.mark.parametrize(
    ("entries", "why", "pages"),
    [
        (fresh, "does not end within 20,000 entries", MOST // 1000),
        (falling, "does not end within", MOST // 1000),
        (empty, "does not end within", 2),
        (repeated, "returned the same page twice", 30),
    ],
)
def test_l7_a_listing_that_never_ends_is_refused(lister: str, entries: Entries, why: str, pages: int) -> None:
    served = count()
    with scripted_site(lambda asked: page_of(asked, number := next(served), entries(number))) as site:
        listing = site.list("lake", "a/") if lister == "list" else site.versions("lake", "a/")
        with pytest.raises(ListingRefused, match=why) as error:
            consume(listing)
    assert next(served) <= pages + 1
    for part in ("list lake/a/", "primary", "rempart site doctor primary"):
        assert part in str(error.value)
    assert ("most_listed" in error.value.hint) == ("does not end" in why)
    assert not error.value.transient, "a task that tried it again would list for ever"


@pytest.mark.parametrize("lister", ["list", "versions"])
@pytest.mark.parametrize("entries", [falling, repeated, lambda number: fresh(0)[:1] if number else fresh(0)])
def test_l7_where_the_order_was_proven_a_key_that_falls_ends_the_listing_at_once(lister: str, entries: Entries) -> None:
    served = count()
    with scripted_site(lambda asked: page_of(asked, number := next(served), entries(number))) as site:
        rely(site)
        listing = site.list("lake") if lister == "list" else site.versions("lake")
        with pytest.raises(ListingRefused, match="proven to list in order"):
            consume(listing)
    assert next(served) <= 9


def rely(site: S3Site) -> None:
    now = datetime.now(UTC)
    site.rely_on(CapabilityRecord("primary", site.endpoint, now, (Proof("listing order", "proven", "seen"),)))


def test_the_order_that_was_proven_of_another_endpoint_is_not_relied_on() -> None:
    served = iter([falling(0)])

    def answer(asked: ScriptedRequest) -> Answer:
        found = page_of(asked, 0, next(served))
        return Answer(body=found.body.replace(b"<IsTruncated>true", b"<IsTruncated>false"))

    with scripted_site(answer) as site:
        proven = (Proof("listing order", "proven", "seen"),)
        site.rely_on(CapabilityRecord("primary", "http://elsewhere", datetime.now(UTC), proven))
        assert consume(site.list("lake")) == PER_PAGE


def test_l7_uploads_and_parts_that_never_end_are_refused() -> None:
    like = ObjectInfo("big", 1, datetime.now(UTC))
    served = count()

    def uploads(asked: ScriptedRequest) -> Answer:
        number = next(served)
        body = (
            f"<IsTruncated>true</IsTruncated><NextKeyMarker>big</NextKeyMarker><NextUploadIdMarker>u{number}"
            "</NextUploadIdMarker>"
        )
        return Answer(body=f"<ListMultipartUploadsResult>{body}</ListMultipartUploadsResult>".encode())

    def parts(asked: ScriptedRequest) -> Answer:
        if "uploads" in asked.query:
            begun = "<Upload><Key>big</Key><UploadId>u</UploadId><Initiated>2026-11-01T00:00:00Z</Initiated></Upload>"
            return Answer(body=f"<ListMultipartUploadsResult>{begun}</ListMultipartUploadsResult>".encode())
        number = next(served)
        part = f"<Part><PartNumber>{1 + number % 3}</PartNumber><Size>1</Size><ETag>0</ETag></Part>"
        body = f"<IsTruncated>true</IsTruncated><NextPartNumberMarker>{1 + number}</NextPartNumberMarker>{part}"
        return Answer(body=f"<ListPartsResult>{body}</ListPartsResult>".encode())

    for answer in (uploads, parts):
        with scripted_site(answer) as site, pytest.raises(ListingRefused, match="upload lake/big"):
            site.upload("lake", like)


def test_a_page_that_leads_nowhere_is_refused() -> None:
    body = b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"
    with (
        scripted_site(lambda asked: Answer(body=body)) as site,
        pytest.raises(ListingRefused, match="names no next page"),
    ):
        consume(site.list("lake"))


@given(st.integers(0, 300), st.integers(1, 300))
def test_every_cycle_is_found_after_at_most_three_times_its_length(before: int, length: int) -> None:
    cycle = Cycle()
    seen = next(
        number for number in count() if cycle.closes(number if number < before else before + (number - before) % length)
    )
    assert seen <= 3 * (before + length) + 3


@given(st.lists(st.integers(0, 40), max_size=60, unique=True), st.integers(1, 7))
def test_a_listing_without_repeats_comes_back_whole_in_any_order(keys: list[int], size: int) -> None:
    cut = [keys[at : at + size] for at in range(0, len(keys), size)] or [[]]

    def ask(where: dict[str, str]) -> dict[str, Any]:
        number = int(where.get("Token", 0))
        more = number + 1 < len(cut)
        return {"found": cut[number], "IsTruncated": more, "Next": str(number + 1) if more else None}

    pages = walk(
        ask, {"Token": "Next"}, lambda page: [(key, key) for key in page["found"]], PageGuard("list x", "primary")
    )
    assert [key for page in pages for key in page["found"]] == keys

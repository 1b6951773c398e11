"""Addresses of the pages of an API: the first, and the one after each. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from rempart.ingestion.sources.web.json_rows import NotRows, RowsPage
from rempart.settings.sources import HttpSource

_LINK = re.compile(r"<([^<>]*)>([^<]*)")
_REL = re.compile(r';\s*rel\s*=\s*(?:"([^"]*)"|([^\s;,]+))', re.IGNORECASE)


def _leads_on(parameters: str) -> bool:
    """Return whether the parameters of a link in a Link header call it the next page."""
    return any("next" in (quoted or bare).lower().split() for quoted, bare in _REL.findall(parameters))


def with_parameters(url: str, parameters: Mapping[str, str]) -> str:
    """Return an address with these query parameters, in place of those of the same names."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in parameters]
    return urlunsplit(parts._replace(query=urlencode([*kept, *parameters.items()])))


def first(source: HttpSource, since: str | None) -> str:
    """Return the address of the first page. `since`: the cursor's value from which rows are wanted."""
    by, parameters = source.pagination, {}
    if source.cursor_parameter and since is not None:
        parameters[source.cursor_parameter] = since
    if by.size_parameter and by.size:
        parameters[by.size_parameter] = str(by.size)
    if by.by == "page" and by.parameter:
        parameters[by.parameter] = str(by.first)
    if by.by == "offset" and by.parameter:
        parameters[by.parameter] = "0"
    return with_parameters(source.url, parameters) if parameters else source.url


def following(source: HttpSource, url: str, gave: str, page: RowsPage, link: str) -> str | None:
    """Return the address of the page after this one, or None after the last.

    `url`: the address that was asked for; `gave`: the one that answered, after redirects; `link`: its Link header.

    Raises NotRows for a field that leads nowhere.
    """
    try:
        return _following(source, url, gave, page, link)
    except (ValueError, KeyError):  # the cause would quote the answer
        raise NotRows("what leads to the next page is no address") from None


def _following(source: HttpSource, url: str, gave: str, page: RowsPage, link: str) -> str | None:
    by = source.pagination
    if by.by == "link_header":
        found = next((target for target, rest in _LINK.findall(link) if _leads_on(rest)), None)
        return urljoin(gave, found) if found is not None else None
    if by.by in ("next_url", "cursor") and by.field:
        value = page.field(by.field)
        if value is None or value == "" or value is False:
            return None
        if not isinstance(value, str | int):
            raise NotRows(f"field '{by.field}' is neither a text nor a number")
        if by.by == "next_url":
            return urljoin(gave, str(value))
        return with_parameters(url, {by.parameter or "": str(value)})
    if by.by in ("page", "offset") and by.parameter:
        if not page.rows:  # a short page is not the last: a service may give fewer rows than it was asked for
            return None
        now = int(dict(parse_qsl(urlsplit(url).query))[by.parameter])
        return with_parameters(url, {by.parameter: str(now + (1 if by.by == "page" else len(page.rows)))})
    return None

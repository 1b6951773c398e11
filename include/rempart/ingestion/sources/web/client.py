"""An HTTP client for sources: bounded, patient, and bound to the hosts that the policy allows.

Credentials go to the origin (scheme, host and port) of the pipeline's address only. The policy is asked about each
other host, of a redirect or of a next page. The address that a name leads to is checked before a byte is sent.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import re
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

from rempart.errors import ConnectionMissing, EgressDenied, IngestError, SourceUnavailable
from rempart.settings.config import Connection

if TYPE_CHECKING:
    import httpx

REDIRECTS = 5
"""Most redirects of one request."""
TRIES = 5
"""Most attempts of one request."""
LONGEST_WAIT = 300.0
"""Longest wait in seconds that a service may ask for with Retry-After."""
MOST_WAITED = 900.0
"""Most seconds that one extraction waits in all, besides `requests_per_minute`."""
PAGE_BYTES = 32 << 20
"""Largest JSON answer, unpacked."""
PAGE_SECONDS = 300.0
"""Longest time of one JSON answer, so that a trickle does not hold a task."""
NO_CONTENT = 204
"""Status of an answer that has no body: a page without a row."""
AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses after which the same request is sent again."""
_MOVED = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True)
class Answer:
    """One answer with its body: status, headers (names in lower case), and the address that gave it."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class CutShort(Exception):
    """Raised when the network failed, or the body ended early or did not come in time; the message tells which."""


def shown(url: str) -> str:
    """Return an address for messages: without its query, which may hold a cursor or a token."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def origin_of(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address. Raises IngestError for one that is not of HTTP."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        host, port = "", 0
    if not host or not port or parts.username is not None or any(sign <= " " for sign in url):
        raise _no_address(url)
    return parts.scheme, host.lower(), port


def _no_address(url: str) -> IngestError:
    return IngestError(
        f"follow {shown(url)[:200]!r}: the service leads to something that is no plain HTTP address",
        "Ask the service's operator. Nothing was delivered.",
    )


def credentials(connection: Connection | None) -> dict[str, str]:
    """Return the headers that carry a connection's secret.

    A login and password are Basic; a password alone is a Bearer token; `extra.header` names the header of an API key.
    Raises ConnectionMissing for a connection without a password.
    """
    if connection is None:
        return {}
    if not connection.password or any(not " " <= sign <= "~" for sign in connection.password):
        raise ConnectionMissing(
            f"connection '{connection.name}' has no password that fits into an HTTP header",
            "Store the token or password as the connection's password.",
        )
    if header := str(connection.extra.get("header") or ""):
        if not re.fullmatch(r"[A-Za-z0-9-]{1,60}", header) or header.lower() in ("host", "range", "content-length"):
            raise ConnectionMissing(
                f"connection '{connection.name}': extra.header is not the name of a header for a key",
                "Write the name that the service's documentation gives, such as X-Api-Key.",
            )
        return {header: connection.password}
    if connection.login:
        pair = base64.b64encode(f"{connection.login}:{connection.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}
    return {"Authorization": f"Bearer {connection.password}"}


def wait_of(headers: Mapping[str, str], attempt: int, now: datetime) -> float:
    """Return the seconds to wait before the next attempt: as the service asks, else 1, 2, 4, ... Pure."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return float(2**attempt)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - now).total_seconds())


class Client:
    """Sends GET requests of one source.

    `allow` is asked for each host and port, and raises PlacementDenied. `proxy`: the address of a proxy; without it
    HTTPS_PROXY and NO_PROXY of the environment count. Plain HTTP goes through none. `ca_file`: a private authority,
    instead of the public ones.
    """

    def __init__(
        self,
        url: str,
        *,
        allow: Callable[[str, int], None],
        connection: Connection | None = None,
        ca_file: Path | None = None,
        per_minute: int | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import httpx

        self._home, self._secret, self._allow = origin_of(url), credentials(connection), allow
        self._sleep, self._clock, self._pause = sleep, clock, 60.0 / per_minute if per_minute else 0.0
        self._began = self._next = clock()
        self._waited = 0.0
        self._allowed: set[tuple[str, int]] = set()
        proxy = str(connection.extra["proxy"]) if connection and connection.extra.get("proxy") else None
        self._proxies = {urlsplit(found).hostname for found in ([proxy] if proxy else getproxies().values())}
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses with their queries
        self._http = httpx.Client(
            verify=_trust(self._home[0], ca_file),
            proxy=proxy,
            mounts={"http://": None},  # a service of this machine: no proxy gets its token in clear
            trust_env=proxy is None,
            timeout=httpx.Timeout(60.0, connect=15.0),
            headers={"User-Agent": "rempart", "Accept-Encoding": "gzip"},
            limits=httpx.Limits(max_connections=1),
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    @property
    def seconds(self) -> float:
        """Return the seconds since the client was made."""
        return self._clock() - self._began

    def page(self, url: str, conditions: Mapping[str, str] | None = None, *, gone: Collection[int] = ()) -> Answer:
        """Return an answer with status 200 or 204, or 304 to `conditions`, whole; or with one of the statuses `gone`.

        Raises IngestError, SourceUnavailable, PlacementDenied.
        """
        for attempt in range(TRIES):
            until = self._clock() + PAGE_SECONDS
            try:
                with self.opened(url, {"Accept": "application/json"} | dict(conditions or {})) as answer:
                    status, given = answer.status_code, dict(answer.headers)
                    body = self._read(url, answer, until) if status == 200 else b""
            except CutShort as cut:
                self.wait(url, {}, attempt, str(cut))
                continue
            if status in AGAIN:
                self.wait(url, given, attempt, f"status {status}")
                continue
            if status not in (200, NO_CONTENT) and status not in gone and not (status == 304 and conditions):
                refuse(url, status)
            return Answer(str(answer.url), status, {name.lower(): value for name, value in given.items()}, body)
        raise AssertionError("wait raises at the last attempt")

    def _read(self, url: str, answer: httpx.Response, until: float) -> bytes:
        packed = answer.headers.get("content-encoding", "identity").strip().lower()
        if packed not in ("gzip", "identity", ""):  # several layers unpack a block to a million times its size
            raise IngestError(
                f"get {shown(url)}: the answer is packed by {packed[:40]!r}, and gzip was asked for",
                "Ask the service's operator for gzip, once, or for no packing. Nothing was delivered.",
            )
        body = bytearray()
        for block in self.blocks(answer, raw=False):
            body += block
            if len(body) > PAGE_BYTES:
                raise IngestError(
                    f"get {shown(url)}: the answer is larger than {PAGE_BYTES >> 20} MiB",
                    "Ask for smaller pages (`pagination.size`), or set `download: true` if it is one file.",
                )
            if self._clock() > until:
                raise CutShort(f"not complete after {PAGE_SECONDS:.0f} s")
        return bytes(body)

    def blocks(self, answer: httpx.Response, *, raw: bool) -> Iterator[bytes]:
        """Yield the body in blocks; `raw`: as it came, also if it is packed. Raises CutShort, IngestError."""
        import httpx

        try:
            yield from answer.iter_raw() if raw else answer.iter_bytes()
        except httpx.TransportError as cause:
            raise CutShort(type(cause).__name__) from cause
        except httpx.DecodingError as cause:
            raise CutShort("the packed body is damaged") from cause

    @contextmanager
    def opened(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """Open the answer to one request, after redirects. Raises CutShort, PlacementDenied, IngestError."""
        import httpx

        for _ in range(REDIRECTS + 1):
            scheme, host, port = origin = origin_of(url)
            if scheme != "https" and origin != self._home:
                raise IngestError(
                    f"get {shown(url)}: the service leads from {self._home[0]}:// to {scheme}://, without TLS",
                    "Correct source.url to the address that the service leads to, if it has TLS.",
                )
            if (host, port) not in self._allowed:
                self._allow(host, port)
                self._allowed.add((host, port))
            self._keep_pace()
            secret = self._secret if origin == self._home else {}
            try:
                request = self._http.build_request("GET", url, headers={**headers, **secret})
            except (httpx.InvalidURL, UnicodeError):
                raise _no_address(url) from None
            request.extensions["trace"] = _peer_check(host, self._proxies)
            try:
                answer = self._http.send(request, stream=True, follow_redirects=False, auth=None)
            except httpx.TransportError as cause:
                raise CutShort(_cause(cause)) from cause
            try:
                if answer.status_code not in _MOVED:
                    yield answer
                    return
                try:
                    url = urljoin(url, answer.headers.get("location", ""))
                except ValueError:
                    raise _no_address(url) from None
            finally:
                answer.close()
        raise IngestError(f"get {shown(url)}: more than {REDIRECTS} redirects", "Correct source.url.")

    def _keep_pace(self) -> None:
        if self._pause and (left := self._next - self._clock()) > 0:
            self._sleep(left)
        self._next = max(self._next, self._clock()) + self._pause

    def wait(self, url: str, headers: Mapping[str, str], attempt: int, why: str) -> None:
        """Wait before the next attempt. Raises SourceUnavailable after the last, and for too long a wait."""
        seconds = wait_of(headers, attempt, datetime.now(UTC))
        if attempt + 1 >= TRIES or seconds > LONGEST_WAIT or self._waited + seconds > MOST_WAITED:
            asked = f"; the service asks to wait {seconds:.0f} s" if seconds > LONGEST_WAIT else ""
            raise SourceUnavailable(
                f"get {shown(url)}: {why}{asked} (attempt {attempt + 1})",
                "Run again later: nothing is lost. If it stays so, lower `requests_per_minute` or ask the operator.",
            )
        self._waited += seconds
        self._sleep(seconds)


def refuse(url: str, status: int) -> NoReturn:
    """Raise IngestError for a status that no further attempt changes."""
    hints = {
        401: "Correct the token or password in the connection that `source.connection` names.",
        403: "Ask the service's operator for the right to read this.",
        404: "Correct source.url.",
    }
    raise IngestError(
        f"get {shown(url)}: the service answered with status {status}",
        hints.get(status, "Compare source.url and its parameters with the service's documentation."),
    )


def _trust(scheme: str, ca_file: Path | None) -> ssl.SSLContext:
    if scheme != "https":  # a service of this machine: there is nothing to trust
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as cause:
        raise IngestError(
            f"read source.ca_file {ca_file}: {type(cause).__name__}", "Give a file with certificates in PEM form."
        ) from cause


def _cause(error: Exception) -> str:
    """Return why a connection failed. The text of a TLS error names the fault and no secret."""
    inner = error.__cause__ or error
    return f"{type(error).__name__}: {inner}"[:200]


def _peer_check(host: str, proxies: Collection[str | None]) -> Callable[[str, Mapping[str, Any]], None]:
    """Return a trace of a request that ends it if the host's name leads to this machine or a link-local address.

    So no name of a service leads to servers of this machine or to a cloud's metadata. A proxy checks its own peers.
    """
    from rempart.sovereignty.egress import is_this_machine

    local, direct = is_this_machine(host), [True]

    def trace(event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.started":
            direct[0] = str(info["host"]) == host or str(info["host"]) not in proxies
        if event != "connection.connect_tcp.complete" or not direct[0]:
            return
        address = ipaddress.ip_address(str(info["return_value"].get_extra_info("server_addr")[0]).partition("%")[0])
        address = getattr(address, "ipv4_mapped", None) or address
        inside = address.is_loopback or address.is_unspecified
        if inside != local or address.is_link_local or address.is_multicast:
            info["return_value"].close()
            raise EgressDenied(
                f"connect to '{host}': the name leads to {address}, an address of this machine or of its network link",
                "Correct the host, or ask who runs its DNS. Nothing was sent.",
            )

    return trace

"""Find references to other hosts in the platform's web pages: in their text, and in a real browser.

A reference counts unless the page's Content-Security-Policy restricts the browser to the page's own host.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import httpx

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Page, Request

_LOADED = {
    "script": ("src",),
    "link": ("href",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "object": ("data",),
    "embed": ("src",),
    "use": ("href", "xlink:href"),
    "form": ("action",),
}
_CSS = re.compile(r"""(?:url\(\s*|@import\s+)["']?((?:https?:)?//[^"')\s]+)""", re.IGNORECASE)
_SCRIPT = re.compile(
    r"""(?:\bimport\s*\(\s*|\bfrom\s*|\bimportScripts\s*\(\s*|\bimport\s*)["'`]((?:https?:)?//[^"'`\s]+)["'`]"""
)


class _References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.base = ""
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        if tag == "base" and not self.base:
            self.base = values.get("href", "")
        for name in _LOADED.get(tag, ()):
            texts = values.get(name, "").split(",") if name == "srcset" else [values.get(name, "")]
            self.found += [text.split()[0] for text in texts if text.strip()]
        self.found += _CSS.findall(values.get("style", ""))


def of_html(text: str, address: str) -> list[str]:
    """Return the absolute addresses of everything that the page at `address` loads, in order, each once."""
    parser = _References()
    parser.feed(text)
    base = urljoin(address, parser.base)
    inline = _CSS.findall(" ".join(re.findall(r"<style.*?</style>", text, re.IGNORECASE | re.DOTALL)))
    inline += _SCRIPT.findall(" ".join(re.findall(r"<script.*?</script>", text, re.IGNORECASE | re.DOTALL)))
    found = (urljoin(base, reference) for reference in (*parser.found, *inline))
    return [each for each in dict.fromkeys(found) if urlsplit(each).scheme in ("http", "https")]


def of_asset(text: str, kind: str) -> list[str]:
    """Return addresses on other hosts that a stylesheet or a script loads by itself; `kind` is its content type."""
    if "css" in kind:
        return list(dict.fromkeys(_CSS.findall(text)))
    if "javascript" in kind:
        return list(dict.fromkeys(_SCRIPT.findall(text)))
    return []


def external(addresses: Sequence[str], origin: str) -> list[str]:
    """Return those of the addresses that lead to another host."""
    own = urlsplit(origin).netloc
    return [each for each in addresses if urlsplit(each).netloc != own]


_OWN = re.compile(
    r"'(self|none|unsafe-inline|unsafe-eval|wasm-unsafe-eval|strict-dynamic|nonce-.*|sha\d+-.*)'|data:|blob:"
)


def confined(policy: str) -> bool:
    """Return whether a Content-Security-Policy lets a page load nothing from another host."""
    directives = [part.split() for part in policy.lower().split(";") if part.split()]
    loading = [d for d in directives if d[0].endswith("-src")]
    return "default-src" in [d[0] for d in loading] and all(_OWN.fullmatch(source) for d in loading for source in d[1:])


# --- asking the servers -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A web interface: its address, its users, and the pages to visit."""

    name: str
    url: str
    user: str
    password: str
    pages: tuple[str, ...]


AIRFLOW_PAGES = (
    "/",
    "/auth/login",
    "/docs",
    "/redoc",
    "/auth/docs",
    "/auth/redoc",
    "/execution/docs",
    "/execution/redoc",
)
MLFLOW_PAGES = ("/", "/signup")


def read(server: Server) -> tuple[int, list[str]]:
    """Fetch pages and everything that they load.

    Return the number of answers, and "page: address" for each reference to another host.
    """
    found, seen = [], 0
    with httpx.Client(
        trust_env=False,
        follow_redirects=True,
        timeout=30,
        auth=(server.user, server.password) if server.name == "mlflow" else None,
    ) as client:
        for page in server.pages:
            answer = client.get(server.url + page)
            seen += 1
            if confined(answer.headers.get("content-security-policy", "")):
                continue
            loaded = of_html(answer.text, str(answer.url)) if "html" in answer.headers.get("content-type", "") else []
            found += [f"{server.name} {page}: {each}" for each in external(loaded, server.url)]
            for address in loaded:
                if address in external(loaded, server.url):
                    continue
                asset = client.get(address)
                seen += 1
                inner = of_asset(asset.text, asset.headers.get("content-type", ""))
                found += [f"{server.name} {urlsplit(address).path}: {each}" for each in external(inner, server.url)]
    return seen, list(dict.fromkeys(found))


# --- a browser --------------------------------------------------------------------------------------------------------

_SILENT = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    # the browser's own look-ups (autofill, updates) are its maker's: it resolves nothing, and requests are read from it
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)


class Visit:
    """A real browser's way through the pages; `requests` are those to another host that no policy stopped."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._own = {urlsplit(origin).netloc for origin in origins}
        self.pages = 0
        self.blocked: list[str] = []
        self.requests: list[str] = []
        self.broken: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("requestfailed", self._failed)
        page.on("requestfinished", self._finished)

    def _elsewhere(self, request: Request) -> bool:
        parts = urlsplit(request.url)
        return parts.scheme in ("http", "https", "ws", "wss") and parts.netloc not in self._own

    def _console(self, message: ConsoleMessage) -> None:
        """Return loads that a page's policy stopped although they belong to the page."""
        if "Content Security Policy" in message.text:
            addresses = re.findall(r"'((?:https?|wss?)://[^']+)'", message.text)
            if not addresses or any(urlsplit(each).netloc in self._own for each in addresses):
                self.broken.append(message.text[:200])

    def _failed(self, request: Request) -> None:
        if self._elsewhere(request):
            (self.blocked if request.failure == "csp" else self.requests).append(request.url)

    def _finished(self, request: Request) -> None:
        if self._elsewhere(request):
            self.requests.append(request.url)

    def go(self, page: Page, url: str) -> None:
        page.goto(url)
        page.wait_for_timeout(2000)
        self.pages += 1


def browse(chromium: str, airflow: Server, mlflow: Server, dag: str) -> Visit:
    """Log in, and read DAGs, code and the trigger form in Airflow, and models in MLflow. Raises playwright's errors."""
    from playwright.sync_api import sync_playwright

    visit = Visit((airflow.url, mlflow.url))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(_SILENT))
        page = browser.new_page()
        visit.watch(page)
        visit.go(page, f"{airflow.url}/auth/login")
        page.get_by_label("Username").fill(airflow.user)
        page.get_by_label("Password").fill(airflow.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url(lambda url: "login" not in url)
        for path in ("", "/dags", f"/dags/{dag}", f"/dags/{dag}/code", "/assets", *airflow.pages):
            visit.go(page, airflow.url + path)
        visit.go(page, f"{airflow.url}/dags/{dag}")
        page.get_by_role("button", name="Trigger").first.click()
        page.wait_for_timeout(3000)
        page.close()
        context = browser.new_context(http_credentials={"username": mlflow.user, "password": mlflow.password})
        page = context.new_page()
        visit.watch(page)
        for path in ("/", "/#/experiments", "/#/models", f"/#/models/{dag.partition('_')[2]}", *mlflow.pages):
            visit.go(page, mlflow.url + path)
        browser.close()
    return visit


Check = Callable[[str, "bool | None", str], None]


def look(check: Check, airflow: Server, mlflow: Server, dag: str) -> dict[str, int]:
    """Check the pages in both ways. Return a check for each, and the figures."""
    figures = {}
    for server in (airflow, mlflow):
        seen, found = read(server)
        figures[f"{server.name}_answers_read"] = seen
        detail = f"{seen} pages and assets read" + "".join(f"; {each}" for each in found)
        check(f"the pages of {server.name} load nothing from another host", not found, detail)
    asked = "a browser on the pages of Airflow and MLflow asks no other host"
    whole = "the pages' own policy stops nothing of theirs"
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if not chromium:
        for what in (asked, whole):
            check(what, None, "there is no chromium on this machine (Debian's package, or CHROMIUM=/path)")
        return figures
    visit = browse(chromium, airflow, mlflow, dag)
    blocked = f"{visit.pages} pages, {len(visit.blocked)} requests stopped by the page's policy"
    check(asked, not visit.requests, "; ".join([blocked, *dict.fromkeys(visit.requests)]))
    check(whole, not visit.broken, "; ".join(dict.fromkeys(visit.broken)) or f"{visit.pages} pages")
    return figures | {
        "browser_pages": visit.pages,
        "browser_requests": len(visit.requests),
        "browser_requests_stopped": len(visit.blocked),
    }

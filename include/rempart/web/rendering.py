"""Pages out of templates: escaped, in the reader's language, with headers that let a browser load nothing else."""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from rempart.web import charts
from rempart.web.page import Page
from rempart.web.wording import LANGUAGES, Texts, choose

FOLDER = Path(__file__).parent
COOKIE = "rempart_language"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
    "form-action 'self'; frame-ancestors 'self'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals |= {"charts": charts, "languages": LANGUAGES}
    found.filters["airflow"] = lambda base: base.rpartition("/")[0]
    found.filters["json"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)
    return found


def texts(request: Request) -> Texts:
    """Return the texts in the language of the request, else of its cookie, else of its browser."""
    asked, kept = request.query_params.get("lang"), request.cookies.get(COOKIE)
    language = choose(asked, kept, request.headers.get("accept-language"))
    own = [page.texts_in(language) for page in navigation(request)]
    return Texts(language, {key: text for found in own for key, text in found.items()})


def navigation(request: Request) -> tuple[Page, ...]:
    """Return the pages of the navigation in their order."""
    pages: tuple[Page, ...] = request.app.state.pages
    return pages


def _here(request: Request, language: str) -> str:
    """Return the address of the present page in another language, with its other parameters."""
    asked = {name: value for name, value in request.query_params.items() if name != "lang"}
    return f"{request.url.path}?{urlencode({**asked, 'lang': language})}"


def base(request: Request) -> str:
    """Return the cockpit's base path, including Airflow's own prefix: `/rempart`, or `/airflow/rempart`."""
    return str(request.scope.get("root_path", ""))


def render(request: Request, template: str, *, status: int = 200, current: str = "", **content: Any) -> HTMLResponse:
    """Return a page. `current` names the page of the navigation that it belongs to; the application has them all."""
    t, pages = texts(request), navigation(request)
    html = (
        _templates()
        .get_template(f"{template}.html")
        .render(t=t, base=base(request), here=partial(_here, request), pages=pages, current=current, **content)
    )
    answer = HTMLResponse(html, status, headers=HEADERS)
    if request.query_params.get("lang") == t.language:
        answer.set_cookie(
            COOKIE, t.language, max_age=365 * 86400, path=base(request) or "/", httponly=True, samesite="lax"
        )
    return answer

"""Make the routes of a page of the navigation: the page itself, and the same content as JSON."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from rempart.settings import access
from rempart.web.page import Page
from rempart.web.rendering import render
from rempart.web.security.access import requires


def routes(page: Page) -> APIRouter:
    """Return the routes of a page. Both ask for the page's right before they read anything."""
    router = APIRouter()
    permitted = requires(page.right)
    router.add_api_route(f"/api/{page.name}", page.read, methods=["GET"], dependencies=[Depends(permitted)])

    def show(request: Request, user: BaseUser = Depends(permitted), found: Any = Depends(page.read)) -> Response:  # noqa: B008 # FastAPI's way
        rights = access.capabilities(user)
        content: dict[str, Any] = {
            "evidence": "read_evidence" in rights,
            "operate": "operate" in rights,
            **page.constants,
        }
        return render(request, page.name, current=page.name, found=found, **content)

    router.add_api_route(
        f"/{page.name}", show, methods=["GET"], dependencies=[Depends(permitted)], include_in_schema=False
    )
    return router

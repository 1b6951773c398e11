"""Check that our own page made a form for its sender, before the form starts anything."""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.tokens import get_signing_key
from fastapi import Form, Request

from rempart.web.details import forms

Token = Annotated[str, Form(max_length=200)]
"""The hidden field `form`."""


def token(user: BaseUser, action: str) -> str:
    """Return the token for the form of one action of one user."""
    return forms.token(key(), user.get_id(), action)


def is_ours(request: Request, user: BaseUser, action: str, given: str) -> bool:
    """Return whether a form was made here for this user and action, and no other site sent it."""
    ours = forms.is_ours(key(), user.get_id(), action, given)
    return ours and not forms.from_elsewhere(request.headers.get("sec-fetch-site"))


def key() -> str:
    """Return Airflow's own secret for forms and links, the same in each of its API servers."""
    return str(get_signing_key("api", "secret_key"))

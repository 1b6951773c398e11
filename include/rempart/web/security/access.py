"""Check the user's right on a route: `dependencies=[Depends(requires("operate"))]`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, HTTPException, status

from rempart.settings import access


def requires(capability: access.Capability) -> Callable[[BaseUser], BaseUser]:
    """Return a dependency that provides the request's user, or answers 401 without one and 403 without the right."""

    def inner(user: BaseUser = Depends(get_user)) -> BaseUser:  # noqa: B008 # FastAPI's way
        if capability not in access.capabilities(user):
            holders = ", ".join(name for name in access.ROLES if capability in access.role(name).capabilities)
            raise HTTPException(
                status.HTTP_403_FORBIDDEN,
                f"This needs the right '{capability}', which these roles have: {holders}. Ask an admin for such a "
                "role.",
            )
        return user

    return inner


def may(user: BaseUser, capability: access.Capability) -> bool:
    """Return whether a page offers what needs the right; the linked route checks again."""
    return capability in access.capabilities(user)


Reader = Annotated[BaseUser, Depends(requires("read"))]
Auditor = Annotated[BaseUser, Depends(requires("read_evidence"))]
Operator = Annotated[BaseUser, Depends(requires("operate"))]

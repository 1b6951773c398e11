"""Airflow's FAB auth manager with stricter rules: rights to move the platform, old tokens, guessed passwords,
cookies.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from fastapi import HTTPException, status
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from rempart.settings import access
from rempart.web.security.secure_cookies import SecureCookies

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails
    from airflow.providers.fab.auth_manager.models import User

MARK = "key"
"""Claim of a token: which password it was got with."""
WRONG_PASSWORDS = parse("10 per minute")
"""Limit of attempts for one user name at `/auth/token`, which FAB does not limit like its login page."""


def mark(user: User) -> str:
    """Return a mark that changes with a user's password and does not reveal it."""
    return hashlib.sha256((user.password or "").encode()).hexdigest()[:16]


class AuthManager(FabAuthManager):
    """Airflow's auth manager for `access.auth_manager: fab`."""

    _wrong = MovingWindowRateLimiter(MemoryStorage())

    def get_fastapi_middlewares(self) -> list[tuple[Any, dict[str, Any]]]:
        """Return middleware that restricts cookies to https if Airflow's pages use it."""
        own: list[tuple[Any, dict[str, Any]]] = super().get_fastapi_middlewares()
        return [*own, (SecureCookies, {})] if self.apiserver_endpoint.startswith("https://") else own

    def serialize_user(self, user: User) -> dict[str, Any]:
        return {**super().serialize_user(user), MARK: mark(user)}

    def deserialize_user(self, token: dict[str, Any]) -> User:  # type: ignore[override] # FAB wraps its own in a cache
        """Return the user of a token. Raises ValueError for a token from an earlier password."""
        user = super().deserialize_user(token)
        if token.get(MARK) != mark(user):
            self.cache.pop(int(token["sub"]), None)  # the token may be newer than the cached user
            user = super().deserialize_user(token)
            if token.get(MARK) != mark(user):
                raise ValueError(f"The password of user {token['sub']} was changed after this token was made")
        return user

    def create_token(self, headers: dict[str, str], body: dict[str, Any]) -> User | None:
        """Return the user of a name and password. Raises HTTPException 429 after too many wrong ones for that name."""
        name = str(body.get("username")).lower()[:64]
        if not self._wrong.test(WRONG_PASSWORDS, name):
            raise HTTPException(status.HTTP_429_TOO_MANY_REQUESTS, "Too many wrong passwords. Try again in a minute.")
        user = super().create_token(headers=headers, body=body)
        if user is None:
            self._wrong.hit(WRONG_PASSWORDS, name)
        return user

    def is_authorized_dag(
        self,
        *,
        method: ResourceMethod,
        user: User,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        """Decide as FAB does, but let only users with the failover right change a DAG that moves the platform, and
        users with the right to ingest start nothing else.
        """
        allowed: bool = super().is_authorized_dag(
            method=method, user=user, access_entity=access_entity, details=details
        )
        if not allowed or method == "GET":
            return allowed
        starts = method == "POST" and access_entity == DagAccessEntity.RUN
        return access.needed(details.id if details else None, starts=starts) in access.capabilities(user)

    def get_authorized_dag_ids(self, *, user: User, method: ResourceMethod = "GET", **more: Any) -> set[str]:
        """Return the DAGs that a user may change, all in one call, by the same rule."""
        found: set[str] = super().get_authorized_dag_ids(user=user, method=method, **more)
        has = access.capabilities(user)
        if method == "GET" or "fail_over" in has:
            return found
        return found - access.RESERVED if "operate" in has else set()

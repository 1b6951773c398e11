"""Interpret answers of a cluster's API server, and decide which requests are repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from airflow.providers.cncf.kubernetes.kubernetes_helper_functions import generic_api_retry
from kubernetes.client import ApiException  # noqa: TID253 - only where pods run

retried: Callable[[Callable[..., Any]], Callable[..., Any]] = generic_api_retry
"""The provider's rule: transient answers (409, 429, 5xx) are asked again, with Retry-After honoured."""


def is_there(cause: ApiException) -> bool:
    """Return whether a creation failed because the object exists; a retry would not change that."""
    return cause.status == 409 and '"AlreadyExists"' in str(cause.body)


def status_and_message(cause: Exception) -> tuple[int, str]:
    """Return an API server's status and message without HTTP headers; 0 if it did not answer."""
    if not isinstance(cause, ApiException):
        return 0, type(cause).__name__
    try:
        return int(cause.status or 0), str(json.loads(cause.body)["message"])[:500]
    except (TypeError, ValueError, KeyError):
        return int(cause.status or 0), str(cause.reason)[:500]

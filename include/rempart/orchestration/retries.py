"""Decide which failed tasks Airflow retries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import RetryPolicy
from airflow.sdk.definitions.retry_policy import RetryDecision

from rempart.errors import RempartError

if TYPE_CHECKING:
    from airflow.sdk import Context


class RetryTransientErrors(RetryPolicy):
    """Retry an error of ours if its class is marked `transient`; else fail the task at once.

    Every other exception follows the task's own `retries`.
    """

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        if not isinstance(exception, RempartError):
            return RetryDecision.default()
        if exception.transient:
            return RetryDecision.retry(reason=f"{type(exception).__name__} is transient: a retry can help")
        return RetryDecision.fail(reason=f"{type(exception).__name__} is permanent: a retry would fail the same way")

"""The section `gate.approval` of a pipeline file: who decides on a candidate that passed, and how long it waits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter

from rempart.settings.schema import Duration, Strict

ApproverRole = Literal["operator", "admin"]
"""Roles that may answer tasks of Airflow. An admin may do what an operator may."""
LONGEST = timedelta(days=90)


def _known(by: object) -> object:
    """Return who approves, if it is a role that may answer in Airflow, or numbers of people. Raises ValueError."""
    if by in ("operator", "admin"):
        return by
    numbers = by if isinstance(by, list) else None
    if numbers and all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers):
        return numbers
    raise ValueError(
        "name a role that may answer in Airflow (operator or admin), or people by their numbers in `rempart users "
        "list`, such as [3, 5]"
    )


def _bounded(within: timedelta) -> timedelta:
    if not timedelta() < within <= LONGEST:
        raise ValueError("write a time above 0 and of at most 90d, such as 48h")
    return within


class Approval(Strict):
    """The person who decides on a candidate that passed the gate. Without an answer in time it is rejected."""

    by: Annotated[ApproverRole | list[int], BeforeValidator(_known)] = Field(
        description=(
            "Who may decide: a role (`operator`, which includes admins, or `admin`), or people by their numbers in "
            "`rempart users list`, such as [3, 5]."
        )
    )
    four_eyes: bool = Field(
        default=True,
        description=(
            "Whether the authors cannot approve: who started the training, and who last changed pipeline file or "
            "trainer. If one of them is unknown, anybody may be that author: two people must approve, neither of whom "
            "is a known author. Needs `access.auth_manager: fab`."
        ),
    )
    within: Annotated[Duration, AfterValidator(_bounded)] = Field(
        default="48h",
        validate_default=True,
        description="How long a candidate waits. After this time it is rejected, and the champion stays.",
    )
    notify: list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]] = Field(
        default_factory=list,
        description=(
            "Connections to which a note is sent when a candidate waits: of type `http` (a webhook) or `smtp` (a "
            "mailbox)."
        ),
    )

    @classmethod
    def recorded(cls, body: Mapping[str, Any]) -> Self:
        """Return the rule that a record of the ledger holds, where a duration is in ISO 8601."""
        return cls.model_validate({**body, "within": TypeAdapter(timedelta).validate_python(body["within"])})

"""The section `access.delegations` of rempart.yaml: who approves in whose place, and until when."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Self

from pydantic import Field, model_validator

from rempart.settings.schema import Strict

Number = Annotated[int, Field(ge=1)]


class Delegation(Strict):
    """One person's right to approve, lent to another. People are numbers of `rempart users list`: no names."""

    from_: Number = Field(alias="from", description="Number of the person whose right it is.")
    to: Number = Field(description="Number of the person who may approve in that place.")
    until: date = Field(description="Last day (UTC) on which it holds.")

    @model_validator(mode="after")
    def _two_people(self) -> Self:
        if self.from_ == self.to:
            raise ValueError("to: name another person than in `from`")
        return self

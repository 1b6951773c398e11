"""Which versions of a model were champion, as its promotions and rollbacks on record say. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def succession_after(versions: Sequence[str], kind: str, body: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the champions to which a rollback can return, oldest first, after one more decision; the last is champion.

    `versions`: those before it; `kind` and `body`: of its record. A promotion adds its version; a rollback removes the
    one that it replaces with all after it, and names the champion. Where an older record was altered, the steps alone
    lead to another version, or back to a replaced one.
    """
    left = list(versions)
    if kind == "promotion":
        return (*left, str(body["version"]))
    if (replaced := str(body["replaces"])) in left:
        while left.pop() != replaced:
            pass
    if (named := body.get("champion")) is not None:
        while str(named) in left and left[-1] != str(named):
            left.pop()
        if left[-1:] != [str(named)]:
            left.append(str(named))
    return tuple(left)

"""Names of deliveries: a readable part of the source's own name, and what tells it from others. Pure."""

from __future__ import annotations

import re


def delivery_name(own: str, mark: str) -> str:
    """Return the name of a delivery. `own`: the source's name of the file; `mark`: letters and digits.

    The ends of the name after the first dot stay, because they tell the format.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", own)[-80:]
    first, *rest = [part for part in plain.split(".") if part] or ["file"]
    return ".".join([f"{first}-{mark}", *rest])

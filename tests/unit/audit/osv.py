"""Advisories in OSV format, as small as possible."""

from __future__ import annotations

import json
from typing import Any


def affected(name: str, ecosystem: str = "PyPI", **more: Any) -> dict[str, Any]:
    return {"package": {"ecosystem": ecosystem, "name": name}, **more}


def ecosystem_range(*events: dict[str, str]) -> dict[str, Any]:
    return {"ranges": [{"type": "ECOSYSTEM", "events": list(events)}]}


def entry(advisory: str, *parts: dict[str, Any], modified: str = "2026-11-20T00:00:00Z", **more: Any) -> bytes:
    document = {"id": advisory, "modified": modified, "summary": "it burns", "affected": list(parts), **more}
    return json.dumps(document).encode()

"""A trigger that opens a connection: what user code in the triggerer does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class ConnectTrigger(BaseTrigger):
    """Connects once, and tells what came of it."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.host, self.port = host, port

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "egress_trigger.ConnectTrigger", {"host": self.host, "port": self.port}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            await asyncio.wait_for(asyncio.open_connection(self.host, self.port), 3)
            result = {"result": "connected", "told": ""}
        except Exception as error:
            kind = type(error).__name__
            result = {
                "result": "refused by the hook" if kind == "EgressDenied" else "failed",
                "told": f"{kind}: {error}",
            }
        yield TriggerEvent(result)

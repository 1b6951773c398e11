"""The events of every pod that was ever created."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from .kinds import POD
from .store import Change


@dataclass
class PodRecord:
    """One pod's life. The exit code is that of the first container of the spec that did not end with 0, else 0."""

    namespace: str
    name: str
    uid: str
    labels: dict[str, str]
    created: datetime
    node: str | None = None
    started: datetime | None = None
    finished: datetime | None = None
    deleted: datetime | None = None
    exit_code: int | None = None
    phase: str = "Pending"
    images: list[str] = field(default_factory=list)


class History:
    """Follows the store."""

    def __init__(self) -> None:
        self._records: dict[str, PodRecord] = {}

    def notice(self, change: Change) -> None:
        """Takes note of a change of a pod."""
        if change.kind is not POD:
            return
        now, pod = datetime.now(UTC), change.new
        metadata, status = pod["metadata"], pod["status"]
        record = self._records.get(metadata["uid"])
        if record is None:
            images = [container["image"] for container in pod["spec"]["containers"]]
            record = PodRecord(metadata["namespace"], metadata["name"], metadata["uid"], {}, now, images=images)
            self._records[metadata["uid"]] = record
        record.labels = dict(metadata.get("labels") or {})
        record.node = pod["spec"].get("nodeName")
        record.phase = status["phase"]
        states = [each["state"] for each in status.get("containerStatuses") or []]
        if record.started is None and any("running" in state or "terminated" in state for state in states):
            record.started = now
        if record.finished is None and record.phase in ("Succeeded", "Failed"):
            record.finished = now
        codes = [state["terminated"]["exitCode"] for state in states if "terminated" in state]
        if states and len(codes) == len(states):
            record.exit_code = next((code for code in codes if code), 0)
        if change.type == "DELETED":
            record.deleted = now

    def records(self) -> list[PodRecord]:
        """Copies of all records, oldest first."""
        return [replace(record, labels=dict(record.labels)) for record in self._records.values()]

"""Store a job's record at its site: the order, each attempt, its place and its result.

`jobs/<id>/order.json` is the spec. `jobs/<id>/attempts/000001.json` begins an attempt and `000001.end.json` ends it.
Each is written once by a conditional put, so that one of two writers wins and the other reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from rempart import canonical_json
from rempart.errors import ObjectMissing, TrainingError
from rempart.sites.port import Site
from rempart.training.job import JobResult, JobSpec, parse_result, parse_spec
from rempart.training.placement import Attempt, Outcome

ORDER, ATTEMPTS = "order.json", "attempts/"


@dataclass(frozen=True)
class Record:
    """Record of one job. Raises SiteError and its subclasses, and TrainingError for an unusable record."""

    site: Site
    spec: JobSpec

    def order(self) -> str:
        """Store the spec once. Return its key."""
        key = self.spec.key(ORDER)
        if not self.site.write_new(self._bucket, key, self.spec.to_json(), content_type="application/json"):
            read_order(self.site, self._bucket, key)
        return key

    def attempts(self) -> list[Attempt]:
        """Return every attempt, in order."""
        found: dict[int, dict[str, Any]] = {}
        for info in self.site.list(self._bucket, self.spec.key(ATTEMPTS)):
            number, _, kind = info.key.rpartition("/")[2].partition(".")
            if number.isdigit() and kind in ("json", "end.json"):
                found.setdefault(int(number), {})[kind] = self._read(info.key)
        return [self._attempt(number, halves) for number, halves in sorted(found.items()) if "json" in halves]

    def begin(self, number: int, pool: str, at: datetime, by: Mapping[str, str]) -> bool:
        """Begin an attempt. Return False if it was begun before. `by` names the Airflow task."""
        return self._write(f"{number:06}.json", {"pool": pool, "started": at.isoformat(), "by": dict(by)})

    def begun_by(self, number: int) -> dict[str, Any]:
        """Return the Airflow task that began an attempt: dag, run, task, map_index."""
        by: dict[str, Any] = self._read(self._key(f"{number:06}.json"))["by"]
        return by

    def end(self, number: int, outcome: Outcome, cause: str, at: datetime, ran: Mapping[str, Any] | None) -> bool:
        """End an attempt. Return False if it was ended before. `ran` is the place of the attempt, if it got a node."""
        body = {"outcome": outcome, "cause": cause[:2000], "ended": at.isoformat(), "ran": dict(ran) if ran else None}
        return self._write(f"{number:06}.end.json", body)

    def admit(self, number: int, ran: Mapping[str, Any]) -> bool:
        """Note the node that an attempt was admitted to, before it gets its credentials."""
        return self._write(f"{number:06}.node.json", {"ran": dict(ran)})

    def admitted(self, number: int) -> dict[str, Any] | None:
        """Return where an attempt runs; None before a node was admitted."""
        with suppress(ObjectMissing):
            ran: dict[str, Any] = self._read(self._key(f"{number:06}.node.json"))["ran"]
            return ran
        return None

    def ended(self, number: int) -> dict[str, Any] | None:
        """Return where an attempt that has ended ran, and how long; None if it has not, or had no node."""
        with suppress(ObjectMissing):
            ran: dict[str, Any] | None = self._read(self._key(f"{number:06}.end.json"))["ran"]
            return ran
        return None

    def ran(self) -> dict[str, Any] | None:
        """Return where the successful attempt ran, or None if unknown."""
        for attempt in reversed(self.attempts()):
            if attempt.outcome == "succeeded":
                found: dict[str, Any] | None = self._read(self._key(f"{attempt.number:06}.end.json"))["ran"]
                return found
        return None

    def admitted_attempts(self) -> list[dict[str, Any]]:
        """Return where each attempt ran that got a node, in order; `seconds` is missing while it runs."""
        found = []
        for attempt in self.attempts():
            if (ran := self.admitted(attempt.number)) is None:
                continue
            if attempt.outcome is not None:
                ran = self._read(self._key(f"{attempt.number:06}.end.json"))["ran"] or ran
            found.append(ran)
        return found

    def result(self) -> JobResult | None:
        """Return the job's result, or None. Raises TrainingError for an unusable result."""
        with suppress(ObjectMissing):
            return parse_result(self.site.read(self._bucket, self.spec.key("result.json")), self.spec.job_id)
        return None

    @property
    def _bucket(self) -> str:
        return self.spec.output.bucket

    def _key(self, name: str) -> str:
        return self.spec.key(f"{ATTEMPTS}{name}")

    def _read(self, key: str) -> dict[str, Any]:
        try:
            data = canonical_json.read(self.site.read(self._bucket, key))
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise self._unusable(key)
        return data

    def _write(self, name: str, body: Mapping[str, Any]) -> bool:
        text = canonical_json.encode(body)
        return self.site.write_new(self._bucket, self._key(name), text, content_type="application/json")

    def _attempt(self, number: int, halves: Mapping[str, Mapping[str, Any]]) -> Attempt:
        try:
            begun, over = halves["json"], halves.get("end.json")
            started, pool = datetime.fromisoformat(begun["started"]), str(begun["pool"])
            if over is None:
                return Attempt(number, pool, started)
            if over["outcome"] not in get_args(Outcome):
                raise ValueError
            ended = datetime.fromisoformat(over["ended"])
            return Attempt(number, pool, started, over["outcome"], ended, str(over["cause"]))
        except (KeyError, TypeError, ValueError):
            raise self._unusable(self._key(f"{number:06}.json")) from None

    def _unusable(self, key: str) -> TrainingError:
        return TrainingError(
            f"read the record {self._bucket}/{key} of job {self.spec.job_id} at site '{self.site.name}': it is "
            "not valid",
            "Inspect the object. If no part of the job is running any more, delete the object, then clear the task.",
        )


def read_order(site: Site, bucket: str, key: str) -> Record:
    """Return the record of the job ordered under a key. Raises ObjectMissing, TrainingError."""
    return Record(site, parse_spec(site.read(bucket, key)))

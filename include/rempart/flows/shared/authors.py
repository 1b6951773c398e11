"""Find who made a candidate: who started its training, and who last changed pipeline file and trainer.

A deployed image has no git. So `rempart model authors` writes `include/authors.json` in the checkout from which the
image is built: the SHA-256 and the last committer of each file, by the number that `rempart users list` shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rempart.deployment.access import people
from rempart.deployment.servers.postgresql import connect
from rempart.errors import AccessError, ConnectionMissing
from rempart.ledger.attributed import KEY, run_name
from rempart.settings.access import LANDING_WATCH_USER
from rempart.settings.config import Connection, Connections, project_root
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.sections import Access

FILE = "include/authors.json"
BY_HAND = ("manual", "backfill", "asset_materialization")
"""Airflow's types of a run that a person or a program started."""


@dataclass(frozen=True)
class Authors:
    """Numbers of the people who made a candidate. `known`: all of them are among `users`. `how`: where that is from."""

    users: frozenset[int]
    known: bool
    how: str

    def as_json(self) -> dict[str, Any]:
        return {"users": sorted(self.users), "known": self.known, "how": self.how}


@dataclass(frozen=True)
class Started:
    """A run of a training in Airflow. `user` is None for a program, an account of Rempart's own, or a removed user."""

    by_hand: bool
    user: int | None = None


NOBODY = Authors(frozenset(), False, "not looked for")


def read(body: Mapping[str, Any]) -> Authors:
    """Return the authors that a record of kind `approval` names; without any they are unknown."""
    found = body.get("authors") or {}
    users = frozenset(int(user) for user in found.get("users", ()))
    return Authors(users, found.get("known") is True, str(found.get("how", "not recorded")))


def made_by(started: Started | None, files: Mapping[str, int | None]) -> Authors:
    """Return the authors of a candidate. Pure.

    `started`: the run that trained it, None without one on record. `files`: pipeline file and trainer, each with the
    number of its last committer, None if unknown. Authors are the person who started the run, if one did, and the
    committers. A committer who is not known may be anybody.
    """
    committers = frozenset(user for user in files.values() if user is not None)
    unknown = " and ".join(file for file, user in files.items() if user is None)
    lacking = f"the last committer of {unknown} is unknown"
    if started is None:
        return Authors(committers, False, "no run of Airflow is on record for its training")
    if started.by_hand:
        if started.user is None:
            return Authors(committers, False, "its training was started by no person whom Rempart knows")
        how = f"its training was started by user {started.user}" + (f", and {lacking}" if unknown else "")
        return Authors(committers | {started.user}, not unknown, how)
    if unknown:
        return Authors(committers, False, lacking)
    return Authors(committers, True, f"last committers of {' and '.join(files)}")


def of_candidate(
    access: Access,
    connections: Connections,
    airflow: Callable[[], Connection],
    pipeline: ModelPipeline,
    record: Mapping[str, Any],
) -> Authors:
    """Return the authors of a candidate, by its evidence, Airflow's runs and FILE. Raises DatabaseUnavailable.

    `airflow` returns the connection of Airflow's database.
    """
    written = record.get(KEY)
    started = _started(connections, airflow, written) if written and access.auth_manager == "fab" else None
    return made_by(started, committers(project_root(), files_of(pipeline)))


def files_of(pipeline: ModelPipeline) -> list[str]:
    """Return the files of a pipeline's authors: its own, and that of a trainer of the team's."""
    own, _, function = pipeline.trainer.use.partition(":")
    return [f"include/pipelines/{pipeline.name}.yaml", *([own] if function else [])]


def started(kind: str, name: str | None, known: Mapping[str, int], own: Collection[str]) -> Started:
    """Return how a run began, by its type and the name of who triggered it. Pure.

    `known`: numbers of people by name; `own`: accounts of Rempart's own. A run that a DAG started has the name of the
    person who started that DAG, so a name counts whatever the type is.
    """
    return Started(kind in BY_HAND or (name is not None and name not in own), known.get(name or ""))


def committers(root: Path, files: Sequence[str]) -> dict[str, int | None]:
    """Return the last committer of each file by FILE; None if the file was changed since, or FILE does not name it."""
    try:
        named = json.loads((root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = {}
    found: dict[str, int | None] = {}
    for file in files:
        entry = named.get(file) if isinstance(named, dict) else None
        number = entry.get("user") if isinstance(entry, dict) and entry.get("sha256") == sha256(root / file) else None
        found[file] = number if isinstance(number, int) and number > 0 else None
    return found


def sha256(file: Path) -> str | None:
    """Return the SHA-256 of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


def own_accounts(connections: Connections) -> frozenset[str]:
    """Return the names of the accounts that Rempart itself uses. Raises ConnectionMissing."""
    return frozenset({connections("airflow_api").login, LANDING_WATCH_USER})


def _started(connections: Connections, airflow: Callable[[], Connection], written: Mapping[str, Any]) -> Started | None:
    """Return the run of Airflow that wrote a record, or None if Airflow does not know it any more."""
    try:
        own = own_accounts(connections)
        with connect(airflow()) as session:
            if session.execute("SELECT to_regclass('public.dag_run')").fetchone() == (None,):
                return None
            rows = session.execute(
                "SELECT run_id, run_type, triggering_user_name FROM dag_run WHERE dag_id = %s", [written["dag"]]
            ).fetchall()
        with people.tables(airflow()) as session:
            known = {person.name: person.number for person in people.listed(session) if person.name not in own}
    except (AccessError, ConnectionMissing):
        return None
    for run, kind, name in rows:
        if run_name(str(run)) == written["run"]:
            return started(str(kind), None if name is None else str(name), known, own)
    return None

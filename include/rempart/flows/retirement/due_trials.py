"""Decide which trials' models go: those of old searches that no version came of. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from rempart.flows.search.records import Search, Trial


@dataclass(frozen=True)
class DueTrials:
    """Trials of a search whose models go. `last`: when the search, or one on the same rows, was last used."""

    trials: tuple[Trial, ...]
    last: datetime


def due_trials(
    searches: Sequence[Search],
    begun: Sequence[tuple[str, datetime]],
    versions: Collection[str],
    retired: Mapping[str, int],
    after: timedelta,
    now: datetime,
) -> dict[str, DueTrials]:
    """Return the trials whose files go, by search.

    `searches`: newest first; the newest record of a search counts. `begun`: SHA-256 of the rows of each search that
    began, and when. `versions`: jobs that became a version, whose files go with it. `retired`: number of the newest
    record that the trials of a search went. Searches on the same rows may share jobs, so the youngest decides.
    """
    newest = dict[str, Search]()
    for search in searches:
        newest.setdefault(search.search, search)
    used = dict[str, datetime]()
    told = [(search.dataset_sha256, search.at) for search in newest.values() if search.at is not None]
    for rows, at in [*told, *begun]:
        used[rows] = max(at, used.get(rows, at))
    goes = dict[str, DueTrials]()
    for name, search in newest.items():
        if retired.get(name, -1) > search.seq or search.dataset_sha256 not in used:
            continue
        last = used[search.dataset_sha256]
        trials = tuple(trial for trial in search.trials if trial.job not in versions)
        if trials and now - last >= after:
            goes[name] = DueTrials(trials, last)
    return goes

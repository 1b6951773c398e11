"""Build the note of a DAG run from the results of its tasks. Pure; imports only the standard library.

It holds only counts, ids and the platform's own words: no data, and nothing that a task did not already show.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

MARK = "Rempart: "
"""Prefix of our notes: a note without it was written by somebody else, and stays."""
FAILURE = "rempart_failure"
"""XCom of a failed task: what failed and what to do, in the words of the error."""
LONGEST = 900
"""Characters; Airflow keeps 1,000 of a note."""
_LINE = 290

TaskResult = Mapping[str, Any]


def note(returned: Mapping[str, Any], failed: Mapping[str, Sequence[str]]) -> str | None:
    """Return one to three lines, or None if there is nothing to report.

    `returned`: results of tasks, by id. `failed`: the error of each failed task, empty for a killed process.
    """
    lines = [line for task, words in failed.items() for line in _failed(task, words)]
    for task, told in sorted(returned.items(), key=lambda item: TASKS.index(kind_of(item[0]) or TASKS[-1])):
        if (kind := kind_of(task)) and isinstance(told, Mapping) and (line := _safely(_TELLERS[kind], told)):
            lines.append(line)
    shown = [line if len(line) <= _LINE else f"{line[: _LINE - 1]}…" for line in lines[:3]]
    return f"{MARK}{chr(10).join(shown)}"[:LONGEST] if shown else None


def kind_of(task: str) -> str | None:
    """Return the kind of a task in TASKS; `verify_primary_to_haven` is a `verify`."""
    return task if task in _TELLERS else "verify" if task.startswith("verify_") else None


def _failed(task: str, words: Sequence[str]) -> list[str]:
    if not words:
        return [f"{task} failed; its log says why."]
    what, *remedy = (" ".join(word.split()) for word in words)
    return [f"{task} failed: {what}", *(f"What to do: {step}" for step in remedy if step)]


def _safely(tell: Callable[[TaskResult], str | None], told: TaskResult) -> str | None:
    """Return a line, or None for a result of another form (an older release's run)."""
    try:
        return tell(told)
    except (KeyError, TypeError, ValueError):
        return None


def _ingest(told: TaskResult) -> str:
    if not told["deliveries"]:
        return f"Nothing new was delivered; {_snapshot(told)}"
    return (
        f"{told['delivered']:,} rows delivered, {told['accepted']:,} accepted, {told['quarantined']:,} in quarantine; "
        f"{_snapshot(told)}"
    )


def _snapshot(told: TaskResult) -> str:
    if told["snapshot"] is None:
        return "there is no snapshot yet."
    return f"snapshot {told['snapshot']} has {told['total_rows']:,} rows."


def _materialize(told: TaskResult) -> str:
    if not told["changed"]:
        return f"The feature store already held snapshot {told['snapshot']}."
    return f"{told['views']} feature views of snapshot {told['snapshot']}: {told['rows_online']:,} rows online."


def _train(told: TaskResult) -> str:
    pool = (told.get("placement") or {}).get("pool")
    where = f" in pool {pool}" if pool else ""
    return (
        f"Version {told['version']} was trained{where} on {told['rows_train']:,} rows, {told['rows_holdout']:,} held "
        f"out; snapshot {told['snapshot']}."
    )


def _validate(told: TaskResult) -> str:
    why = "; ".join(str(reason) for reason in told["reasons"])
    if told["promoted"]:
        return f"Version {told['version']} is the champion: {why}"
    why = "; ".join(str(reason) for reason in told["reasons"] if not str(reason).startswith("passed: ")) or why
    stays = f"version {told['champion']} stays champion" if told["champion"] else "and the model has no champion yet"
    return f"Version {told['version']} was refused, {stays}: {why}"


def _roll_back(told: TaskResult) -> str:
    change = f"version {told['champion']} in place of {told['replaces']}"
    return f"Champion is {change}." if told["done"] else f"Nothing was changed; champion would be {change}."


def _conclude(told: TaskResult) -> str:
    return (
        f"{told['verified']:,} of {told['objects']:,} objects verified at the target ({told['grade']}), "
        f"{told['copied']:,} copied ({_size(told['copied_bytes'])}), {told['failures']:,} failed; "
        f"lag {told['lag_seconds']:.0f} s."
    )


def _back_up(told: TaskResult) -> str:
    whole = "" if not told["dangling"] else f" It is INCONSISTENT: {len(told['dangling'])} objects are missing."
    whole += "".join(f" It does not hold {store}." for store in told.get("not_held") or ())
    return (
        f"Restore point {told['id']}: {told['databases']} databases ({_size(told['bytes'])}), "
        f"{told['objects']:,} objects.{whole}"
    )


def _prune(told: TaskResult) -> str | None:
    return f"{len(told['deleted'])} older points pruned." if told["deleted"] else None


def _drill(told: TaskResult) -> str:
    passed = sum(check["ok"] is True for check in told["checks"])
    verdict = "proved itself" if told["ok"] else "did not prove itself"
    return (
        f"Restore point {told['point_id']} {verdict}: {passed} of {len(told['checks'])} checks passed, restored in "
        f"{told['rto_seconds']:.0f} s."
    )


def _restore_to_sandbox(told: TaskResult) -> str:
    done = {"restore": "restored", "remove": "removed"}.get(str(told["did"]), str(told["did"]))
    names = ", ".join([*told["databases"], *told["buckets"]])
    return f"{'Would be' if told['dry_run'] else 'Beside the platform'} {done}: point {told['point']} as {names}."


def _verify(told: TaskResult) -> str:
    damaged, unhealed = len(told["damaged"]), len(told["unhealed"])
    return f"{told['read']:,} replicas read back ({_size(told['bytes'])}): {damaged} damaged, {unhealed} not healed."


def _probe(told: TaskResult) -> str:
    return "Sites probed: " + "; ".join(
        f"{site} does not prove {len(lacking)} abilities" for site, lacking in told.items()
    )


def _export(told: TaskResult) -> str:
    return f"{told['records']:,} records of the ledger exported; the last one is {told['last']}."


def _switchover(told: TaskResult) -> str:
    road = f"from {told['source']} to {told['target']}"
    if told["dry_run"]:
        return f"The plan {road} was shown; nothing was moved. The active site is {told['active']}."
    return f"{'Moved' if told['done'] else 'Not yet moved'} {road}; the active site is {told['active']}."


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


_TELLERS: Mapping[str, Callable[[TaskResult], str | None]] = {
    "ingest": _ingest,
    "materialize": _materialize,
    "train": _train,
    "validate": _validate,
    "roll_back": _roll_back,
    "conclude": _conclude,
    "back_up": _back_up,
    "prune": _prune,
    "report": _drill,
    "restore_to_sandbox": _restore_to_sandbox,
    "verify": _verify,
    "probe": _probe,
    "export": _export,
    "fail_over": _switchover,
    "fail_back": _switchover,
}
TASKS = tuple(_TELLERS)
"""Ids of the tasks whose results appear in notes."""

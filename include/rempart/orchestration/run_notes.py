"""Build the note of a DAG run from the results of its tasks. Pure; imports nothing heavy.

It holds only counts, ids and the platform's own words: no data, and nothing that a task did not already show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rempart.backup.drill.checks import passed_told
from rempart.counts import counted, size
from rempart.ingestion.acceptance import good
from rempart.models.gates.reasons import UNCHANGED, is_kept

MARK = "Rempart: "
"""Prefix of our notes. A note without it was written by a person and is not replaced."""
FAILURE = "rempart_failure"
"""XCom of a failed task: what failed and what to do, in the words of the error."""
LONGEST = 900
"""Characters; Airflow keeps 1,000 of a note."""
_LINE = 290

TaskResult = Mapping[str, Any]


def note(returned: Mapping[str, Any], failed: Mapping[str, Sequence[str]]) -> str | None:
    """Return a note of one to three lines, or None if there is nothing to report.

    `returned`: results of tasks, by id. `failed`: the error of each failed task, empty for a killed process.
    """
    lines = [line for task, words in failed.items() for line in _failed(task, words)]
    for task, result in sorted(returned.items(), key=lambda item: TASKS.index(kind_of(item[0]) or TASKS[-1])):
        if (kind := kind_of(task)) and isinstance(result, Mapping) and (told := _safely(_TELLERS[kind], result)):
            lines += told.split("\n")
    shown = [line if len(line) <= _LINE else f"{line[: _LINE - 1]}…" for line in lines[:3]]
    return f"{MARK}{chr(10).join(shown)}"[:LONGEST] if shown else None


def words(task: str, result: TaskResult) -> str:
    """Return the result of one task as a sentence; empty if there is nothing to report."""
    kind = kind_of(task)
    return (_safely(_TELLERS[kind], result) if kind else None) or ""


def kind_of(task: str) -> str | None:
    """Return the kind of a task in TASKS; `verify_primary_to_haven` is a `verify`."""
    return task if task in _TELLERS else "verify" if task.startswith("verify_") else None


def _failed(task: str, words: Sequence[str]) -> list[str]:
    if not words:
        return [f"{task} failed. See its log for the cause."]
    what, *remedy = (" ".join(word.split()) for word in words)
    return [f"{task} failed: {what}", *(f"What to do: {step}" for step in remedy if step)]


def _safely(tell: Callable[[TaskResult], str | None], task_result: TaskResult) -> str | None:
    """Return a line, or None for a result of another form (an older release's run)."""
    try:
        return tell(task_result)
    except (KeyError, TypeError, ValueError):
        return None


def _extract(task_result: TaskResult) -> str | None:
    gone = (
        f"{counted(task_result['absent'], 'row is', 'rows are')} no longer at the source."
        if task_result["absent"]
        else ""
    )
    if task_result["waiting"]:
        told = f"Deliveries of the last extraction still to be ingested: {task_result['waiting']:,}."
    elif task_result["deliveries"]:
        taken = counted(task_result["deliveries"], "delivery", "deliveries")
        were = "was" if task_result["deliveries"] == 1 else "were"
        told = f"{taken} ({size(task_result['bytes'])}) {were} taken from the source."
    else:
        told = ""
    return " ".join(filter(None, [told, gone])) or None


def _ingest(task_result: TaskResult) -> str:
    if not task_result["deliveries"]:
        return f"Nothing new was delivered; {_snapshot(task_result)}"
    return (
        f"{counted(task_result['delivered'], 'row')} delivered, "
        f"{good(task_result['accepted'], task_result.get('repeated', 0), task_result.get('replaced', 0))}, "
        f"{task_result['quarantined'] - (held := task_result.get('held_rows', 0)):,} refused in this run"
        f"{f' and {held:,} good ones held back' if held else ''}; "
        f"{_snapshot(task_result)}{pace(task_result['delivered'], task_result.get('seconds'))}"
        f"{_hint(task_result)}"
    )


def _hint(task_result: TaskResult) -> str:
    """Return what to do about DuckDB's memory, after a space; empty if it sufficed."""
    return f" {task_result['hint']}" if task_result.get("hint") else ""


def pace(rows: int, seconds: float | None) -> str:
    """Return how long a task computed with rows, after a space; empty if the duration is unknown. Pure."""
    if not seconds or seconds <= 0:
        return ""
    took = f" Computing took {seconds:,.{1 if seconds < 10 else 0}f} s"
    return f"{took}, {rows / seconds:,.0f} rows/s." if rows >= seconds else f"{took}."


def _snapshot(task_result: TaskResult) -> str:
    if task_result["snapshot"] is None:
        return "there is no snapshot yet."
    return f"snapshot {task_result['snapshot']} has {counted(task_result['total_rows'], 'row')}."


def _materialize(task_result: TaskResult) -> str:
    if not task_result["changed"]:
        note = f"The feature store already held snapshot {task_result['snapshot']}."
        return " ".join([note, *_load(task_result), *_labels(task_result)])
    views = "1 feature view" if task_result["views"] == 1 else f"{task_result['views']} feature views"
    written = task_result.get("rows_written", 0)
    note = f"{views} of snapshot {task_result['snapshot']}: {online(task_result)}; {counted(written, 'row')} written."
    note += pace(written, task_result.get("seconds"))
    return " ".join([note, *_load(task_result), *_labels(task_result)])


def _load(task_result: TaskResult) -> list[str]:
    """Return what a load did beyond what changed, if it did."""
    return [task_result["note"]] if task_result.get("note") else []


def _labels(task_result: TaskResult) -> list[str]:
    """Return a sentence about labels of another pipeline, if the result has them."""
    from rempart.features.label_feed import told

    labels = task_result.get("labels")
    return [f"{told(labels['pipeline'], labels['rows'])}."] if labels else []


def online(features: TaskResult) -> str:
    """Return how many rows are online and why: each view has one for each of its keys or groups, not for each row."""
    views = int(features["views"])
    each = "one for each key" if views == 1 else f"one for each key or group in each of {views} views"
    return f"{counted(features['rows_online'], 'row')} online, {each}"


def _decide_training(task_result: TaskResult) -> str | None:
    if task_result["verdict"] is not None:
        return f"Training was started by drift: {task_result['why']}."
    return None if task_result["train"] else f"Nothing was trained: {task_result['why']}."


def _train(task_result: TaskResult) -> str:
    pool = (task_result.get("placement") or {}).get("pool")
    where = f" in pool {pool}" if pool else ""
    seconds = (task_result.get("seconds") or {}).get("train")
    if task_result.get("reused"):  # its figures are of then
        return f"V{task_result['reused'][1:]}.{_hint(task_result)}"
    note = (
        f"Version {task_result['version']} was trained{where} on {counted(task_result['rows_train'], 'row')},"
        f" {task_result['rows_holdout']:,} held "
        f"out; snapshot {task_result['snapshot']}.{pace(task_result['rows_train'], seconds)}{_hint(task_result)}"
    )
    return " ".join([note, *_labels(task_result), *_measured(task_result.get("metrics") or {})])


def _measured(figures: Mapping[str, float]) -> list[str]:
    """Return what the job measured before anyone opened the held-out rows."""
    found = [f"{name} {value:.4g}" for name, value in figures.items() if name.startswith("validation_")]
    spreads = [
        f"{name} {figures[f'backtest_{name}_mean']:.4g} with a spread of {value:.4g}"
        for name, value in ((_metric(key), value) for key, value in figures.items() if key.endswith("_spread"))
    ]
    return [
        *([f"On the validation part: {', '.join(found).replace('validation_', '')}."] if found else []),
        *([f"Trained from the past: {', '.join(spreads)}."] if spreads else []),
    ]


def _metric(spread: str) -> str:
    return spread.removeprefix("backtest_").removesuffix("_spread")


def folded(reasons: Sequence[str]) -> str:
    """Return the gate's reasons, all passed or all refused, as one sentence: their common beginning once."""
    words = [reason.removeprefix("refused: ").removeprefix("passed: ").split(" ") for reason in reasons]
    same = list(itertools.takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False)))
    count = len(same) if len(words) > 1 else 0
    return " ".join([*words[0][:count], "; ".join(" ".join(row[count:]) for row in words)]) if words else ""


def _validate(task_result: TaskResult) -> str:
    reasons = [str(reason) for reason in task_result["reasons"]]
    if task_result["promoted"] and reasons and reasons[0].startswith(UNCHANGED):
        return "\n".join(_champion_already(str(task_result["version"]), *reasons))
    if task_result["promoted"]:
        return f"Version {task_result['version']} is the champion: {folded(reasons)}"
    why = folded([reason for reason in reasons if not reason.startswith("passed: ")] or reasons)
    stays = (
        f"the champion is still version {task_result['champion']}"
        if task_result["champion"]
        else "and the model still has no champion"
    )
    if task_result.get("awaits"):
        return f"Version {task_result['version']} passed and awaits approval, {stays}: {why}"
    return f"Version {task_result['version']} was refused, {stays}: {why}"


def _champion_already(version: str, unchanged: str, *reasons: str) -> Iterator[str]:
    """Yield since when a version is champion, and what it showed at its promotion, as lines."""
    yield f"Version {version} is still the champion: {unchanged}."
    kept = [reason for reason in reasons if is_kept(reason)]
    other = [reason for reason in reasons if not is_kept(reason)]
    if kept:
        yield f"It passed the gate then: {folded(kept)}."
    if other:
        yield f"Also noted then: {'; '.join(other)}."


def _score(task_result: TaskResult) -> str:
    return " ".join([_predicted(task_result), *_table_of_the_user(task_result)])


def _predicted(task_result: TaskResult) -> str:
    of = f"snapshot {task_result['snapshot']} of {task_result['rows_of']}"
    if not task_result["scoring"]:
        return f"No row of {of} is new to version {task_result['version']}: nothing was predicted."
    if not task_result["new"]:
        return f"Version {task_result['version']} predicted these rows of {of} before: nothing new was written."
    why = "; ".join(f"{count:,} because {reason}" for reason, count in sorted(task_result["reasons"].items())[:3])
    return (
        f"{counted(task_result['rows'], 'row')} of {of} predicted by version {task_result['version']}, "
        f"{task_result['refused']:,} in quarantine{f' ({why})' if why else ''}."
    )


def _table_of_the_user(task_result: TaskResult) -> Iterator[str]:
    if task_result["superseded"]:
        came = task_result["changed_rows"]
        left = "the rest did not come into your table" if came else "your table was left as it was"
        yield f"Another version became champion meanwhile, so {left}: start score_{task_result['pipeline']} again."
    if task_result["changed_rows"]:
        changed = counted(task_result["changed_rows"], "row of your table was", "rows of your table were")
        yield f"{changed} inserted or replaced."
    if task_result["former_rows"]:
        yield (
            f"{task_result['former_rows']:,} of its rows are from versions that are no longer champion: start "
            f"score_{task_result['pipeline']} with `from` and `to` to predict the rows of that window again."
        )


def _told(task_result: TaskResult) -> str:
    return f"{str(task_result['told'])[:1].upper()}{str(task_result['told'])[1:]}."


def _watch(task_result: TaskResult) -> str:
    window, version = task_result["window"], task_result["version"]
    told = f"Version {version} on {counted(window['rows'], 'row')} since its training data: {task_result['outcome']}"
    reasons = "; ".join(str(reason) for reason in task_result["reasons"])
    told = (
        f"{told}: {reasons}."
        if reasons
        else f"{told}, {task_result['moved']} of {counted(task_result['watched'], 'column')} moved."
    )
    return f"{told}{_challenger(task_result['challenger'])}"


def _challenger(found: TaskResult | None) -> str:
    """Return how the challenger does, with a leading space; empty if it is not known."""
    if found is None or found["better"] is None:
        return ""
    better = {"challenger": "better", "champion": "worse"}.get(found["better"], "the same but for chance")
    figures = f"{found['metric']} {found['challenger']:.4g} beside {found['champion']:.4g}"
    return f" Challenger {found['version']} ({found['standing']}): {figures} on {found['rows']:,} rows, {better}."


def _roll_back(task_result: TaskResult) -> str:
    change = f"version {task_result['champion']} replaces {task_result['replaces']}"
    return (
        f"Champion: {change}."
        if task_result["done"]
        else (f"Dry run, nothing was changed. Champion would be: {change}.")
    )


def _retire(task_result: TaskResult) -> str:
    told = [
        f"{model}: version {', '.join(found['retired'])}" for model, found in task_result.items() if found["retired"]
    ]
    dry = any(found["dry_run"] for found in task_result.values())
    start = "Dry run, nothing was changed. Would be retired" if dry else "Retired"
    return f"{start}: {'; '.join(told)}." if told else "No version was retired: nothing is due."


def _conclude(task_result: TaskResult) -> str:
    return (
        f"{task_result['verified']:,} of {counted(task_result['objects'], 'object')} verified at the target"
        f" ({task_result['grade']}), "
        f"{task_result['copied']:,} copied ({size(task_result['copied_bytes'])}), {task_result['failures']:,} failed; "
        f"lag {task_result['lag_seconds']:.0f} s."
    )


def _back_up(task_result: TaskResult) -> str:
    whole = (
        ""
        if not task_result["dangling"]
        else f" It is INCOMPLETE: {counted(len(task_result['dangling']), 'object is', 'objects are')} missing."
    )
    whole += "".join(f" It lacks {store}." for store in task_result.get("not_held") or ())
    return (
        f"Restore point {task_result['id']}: {counted(task_result['databases'], 'database')} "
        f"({size(task_result['bytes'])}), {counted(task_result['objects'], 'object')}.{whole}"
    )


def _prune(task_result: TaskResult) -> str | None:
    return f"Pruned {counted(len(task_result['deleted']), 'older restore point')}." if task_result["deleted"] else None


def _drill(task_result: TaskResult) -> str:
    passed = passed_told(check["ok"] for check in task_result["checks"])
    verdict = "proved itself" if task_result["ok"] else "failed its proof"
    return (
        f"Restore point {task_result['point_id']} {verdict}: {passed}, restored in {task_result['rto_seconds']:.0f} s."
    )


def _restore_to_sandbox(task_result: TaskResult) -> str:
    done = {"restore": "restored", "remove": "removed"}.get(str(task_result["did"]), str(task_result["did"]))
    names = ", ".join([*task_result["databases"], *task_result["buckets"]])
    return (
        f"{'Would be' if task_result['dry_run'] else 'Beside the platform'} {done}: point"
        f" {task_result['point']} as {names}."
    )


def _verify(task_result: TaskResult) -> str:
    damaged, unhealed = len(task_result["damaged"]), len(task_result["unhealed"])
    return (
        f"{counted(task_result['read'], 'replica')} read back ({size(task_result['bytes'])}): {damaged} damaged, "
        f"{unhealed} not repaired."
    )


def _compare(task_result: TaskResult) -> str | None:
    if not task_result["pipelines"]:
        return None
    return (
        f"{task_result['compared']:,} online entities of {task_result['views']} feature views have the values of their"
        " snapshots."
    )


def _probe(task_result: TaskResult) -> str:
    return "Sites probed: " + "; ".join(
        f"{counted(len(lacking), f'capability of {site} is', f'capabilities of {site} are')} not proven"
        for site, lacking in task_result.items()
    )


def _export(task_result: TaskResult) -> str:
    return f"Exported {task_result['records']:,} ledger records; the last one is {task_result['last']}."


def _switchover(task_result: TaskResult) -> str:
    road = f"from {task_result['source']} to {task_result['target']}"
    if task_result["dry_run"]:
        return f"Dry run: the plan {road} was shown, nothing was moved. The active site is {task_result['active']}."
    return f"{'Moved' if task_result['done'] else 'Not yet moved'} {road}; the active site is {task_result['active']}."


_TELLERS: Mapping[str, Callable[[TaskResult], str | None]] = {
    "extract": _extract,
    "ingest": _ingest,
    "materialize": _materialize,
    "decide_training": _decide_training,
    "train": _train,
    "validate": _validate,
    "decide": _told,
    "watch": _watch,
    "roll_back": _roll_back,
    "score": _score,
    "retire": _retire,
    "conclude": _conclude,
    "back_up": _back_up,
    "prune": _prune,
    "report": _drill,
    "restore_to_sandbox": _restore_to_sandbox,
    "verify": _verify,
    "compare_features": _compare,
    "probe": _probe,
    "export": _export,
    "fail_over": _switchover,
    "fail_back": _switchover,
}
TASKS = tuple(_TELLERS)
"""Ids of the tasks whose results appear in notes."""

"""The world of `make prove-world-moves`: a project that learns again, moved prices, and a client of the scorer."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shutil
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import yaml

from rempart.cli.demo import demo_run as demo
from rempart.settings import config
from rempart.settings.pipelines import named, with_model

Found = TypeVar("Found")
PIPELINE = demo.PIPELINE
MOVED_FROM = "2017-07-01"
"""Day of arrival from which prices move."""
FACTORS = {"before": 1.0, "moved": 1.3}
"""Factor of the prices in each delivery."""
PATIENCE = 300.0
"""Seconds until a step that takes some on a quiet machine is a fault."""
_PRICE, _DATE = "avg_price_per_room", "arrival_date"
_LEARNS: Mapping[str, Any] = {
    "holdout": {"column": _DATE, "last": "30d"},
    "retrain": {"on_features": False, "on_drift": True, "cool_down": "7d", "at_most": {"trainings": 2, "days": 30}},
    "schedules": {"on_delivery": True, "monitor": "* * * * *"},
}
_DECIMALS = {"integer": int, "number": float}


def project(home: Path) -> None:
    """Make a project folder like this one, whose pipeline learns again, and is watched each minute."""
    root = config.project_root()
    shutil.rmtree(home, ignore_errors=True)
    (home / "include" / "pipelines").mkdir(parents=True)
    for name in ("dags", "plugins", "data", "docs", "pyproject.toml", *(f"include/{n}" for n in shared_parts(root))):
        (home / name).symlink_to(root / name)
    data = yaml.safe_load((root / "rempart.yaml").read_text(encoding="utf-8"))
    data["dags"]["retry_delay"] = "5s"
    (home / "rempart.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    file = f"include/pipelines/{PIPELINE}.yaml"
    spec = yaml.safe_load((root / file).read_text(encoding="utf-8")) | _LEARNS
    spec["trainer"] = {
        "use": "gradient_boosting",
        "params": {"max_iter": 150, "learning_rate": 0.1, "max_leaf_nodes": 15, "leave_out": "*_trend__*_mean_*"},
        "seed": 7,
    }
    spec["gate"]["limit"] = 100.0  # the rules that count are relative: to the naive baseline and to the champion
    spec["features"]["booking"]["calendar"][_DATE].append("year")  # of two summers, the model can follow the newer
    (home / file).write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")


def shared_parts(root: Path) -> list[str]:
    """Return the entries of `include` that a project of a proof shares with this one: all but its pipelines."""
    return [entry.name for entry in (root / "include").iterdir() if entry.name not in ("pipelines", "__pycache__")]


def deliveries(file: Path) -> dict[str, bytes]:
    """Return the sample as two CSV files: `before`, and `moved` from MOVED_FROM on."""
    with gzip.open(file, "rt", encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines)
        texts = {stage: io.StringIO(newline="") for stage in FACTORS}
        writers = {
            stage: csv.DictWriter(text, rows.fieldnames or (), lineterminator="\n") for stage, text in texts.items()
        }
        for writer in writers.values():
            writer.writeheader()
        for row in rows:
            stage = "before" if row[_DATE] < MOVED_FROM else "moved"
            if FACTORS[stage] != 1:
                row[_PRICE] = f"{float(row[_PRICE]) * FACTORS[stage]:.2f}"
            writers[stage].writerow(row)
    return {stage: text.getvalue().encode() for stage, text in texts.items()}


@dataclass
class Asking:
    """A client of the scorer that asks twice a second. `answers`: time and version; `lost`: requests without one."""

    url: str
    key: str
    row: Mapping[str, Any]
    answers: list[tuple[datetime, str]] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self._go_on, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._end.set()
            thread.join(60)

    def _go_on(self) -> None:
        while not self._end.wait(0.5):
            try:
                self.answers.append((datetime.now(UTC), self.ask()))
            except (OSError, ValueError) as fault:
                self.lost.append(f"{datetime.now(UTC):%H:%M:%S} {fault}")

    def ask(self) -> str:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        asked = urllib.request.Request(  # noqa: S310 - this machine's scorer
            f"{self.url}/predict/{PIPELINE}", json.dumps(self.row).encode(), headers
        )
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            return str(json.load(answer)["version"])

    def first(self, version: str) -> datetime | None:
        return next((at for at, answered in list(self.answers) if answered == version), None)


@contextmanager
def scorer(port: int, log: Path) -> Iterator[str]:
    """Run the scorer until the block ends. Yields its address."""
    with log.open("wb") as out:
        command = [sys.executable, "-m", "rempart.cli", "run", "scorer", "--port", str(port)]
        process = subprocess.Popen(command, stdout=out, stderr=out)
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: process.poll() is not None or _is_ready(f"{url}/v2/health/ready"), "the scorer is ready")
            yield url
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
        return bool(answer.status == 200)
    return False


def booking() -> dict[str, Any]:
    """Return a booking as a program would send it, without its target."""
    columns = with_model(named(PIPELINE)).columns
    with gzip.open(config.project_root() / "data" / "hotel_bookings.csv.gz", "rt", encoding="utf-8") as lines:
        row = next(csv.DictReader(lines))
    return {
        name: _DECIMALS.get(column.type, str)(row[name]) if row[name] else None
        for name, column in columns.items()
        if name != _PRICE
    }


def until(found: Callable[[], Found | None], what: str, seconds: float = PATIENCE) -> Found:
    """Wait until something is found, and return it. Ends the proof after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (seen := found()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)
    return seen

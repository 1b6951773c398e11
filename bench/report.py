"""Format of a benchmark's result."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from typing import Literal

from rempart.settings import config


@dataclass(frozen=True)
class Row:
    """One case. `ratio`: how many times better than the peer (above 1 is better)."""

    case: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    better_is: Literal["higher", "lower"]

    @property
    def ratio(self) -> float:
        return round(self.peer / self.ours if self.better_is == "lower" else self.ours / self.peer, 3)


def write(name: str, rows: list[Row], **figures: object) -> None:
    """Print the rows and write var/bench/<name>.json."""
    machine = {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform(terse=True)}
    folder = config.var_dir() / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    body = {"name": name, "machine": machine, "rows": [asdict(r) | {"ratio": r.ratio} for r in rows], **figures}
    (folder / f"{name}.json").write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
    for row in rows:
        print(
            f"{row.case}: ours {row.ours:.3f} {row.unit}, {row.peer_name} {row.peer:.3f} {row.unit}, "
            f"ratio {row.ratio:.2f}"
        )
    print(f"written: {folder / name}.json")

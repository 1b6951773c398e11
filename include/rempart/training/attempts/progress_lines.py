"""Write the lines by which a job in a process of its own tells its progress."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from typing import Any


def tell(stage: str, /, **facts: Any) -> None:
    """Write a line of a job's progress to standard output: JSON with its time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    sys.stdout.write(json.dumps({"at": now, "stage": stage, **facts}) + "\n")
    sys.stdout.flush()

"""Give a proof's project a demo pipeline whose trainings last long enough to be interrupted, each iteration some."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from bench.moving_world import PIPELINE, shared_parts
from rempart.settings import config

TRAINER: Mapping[str, Any] = {
    "use": "gradient_boosting",
    "params": {"max_iter": 1000, "learning_rate": 0.05, "max_leaf_nodes": 15, "leave_out": "*_trend__*_mean_*"},
    "seed": 7,
}


def declare(home: Path) -> None:
    """Set the trainer in the pipeline file of a project; a folder `include` that is only a link becomes its own."""
    include, root = home / "include", config.project_root()
    if include.is_symlink():
        include.unlink()
        include.mkdir()
        for name in shared_parts(root):
            (include / name).symlink_to(root / "include" / name)
    pipelines, file = include / "pipelines", f"{PIPELINE}.yaml"
    pipelines.mkdir(exist_ok=True)
    spec = yaml.safe_load((root / "include" / "pipelines" / file).read_text(encoding="utf-8"))
    spec["trainer"] = dict(TRAINER)
    (pipelines / file).write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")

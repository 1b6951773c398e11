"""The two commands by which the README asks for a prediction, typed against the running stack."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rempart.deployment.setup import paths
from rempart.flows.governance import clients
from rempart.flows.prediction.champion import champion_of
from rempart.flows.shared.platform import Platform
from rempart.ingestion import snapshots
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline


def asked_as_the_readme_says(platform: Platform, pipeline: ModelPipeline) -> tuple[dict[str, Any], float]:
    """The scorer's answer to a shell with curl alone, and what the champion predicts for the same booking in batch."""
    readme = (config.project_root() / "README.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL) if "curl" in text]
    issue, curl = block.strip().splitlines()
    here = curl.replace("127.0.0.1:18090", f"127.0.0.1:{paths.current().scorer_port}")
    done = subprocess.run(
        ["bash", "-euc", f"{issue}\n{here}"],
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    clients.revoke(platform.ledger, "curl")
    site, lake = platform.active_site(pipeline.classification), platform.config.buckets.lake
    snapshot = snapshots.current(site, lake, pipeline.name)
    assert snapshot is not None
    rows = snapshots.load_table(site, lake, snapshot)
    asked = json.loads(shlex.split(curl)[-1])["keys"][0]
    booking = rows.take([rows.column("booking_id").to_pylist().index(asked["booking_id"])])
    assert {name: booking.column(name)[0].as_py() for name in asked} == asked, "a reader's mistake would be ours"
    (wanted,) = champion_of(platform, pipeline).predict(booking).column("prediction").to_pylist()
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer, wanted

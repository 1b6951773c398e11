"""A job that a test can end half way, however long the test or the job stalls before."""

from __future__ import annotations

from rempart.errors import ObjectMissing
from rempart.flows.training import pod_job
from rempart.training.attempts.checkpoints import MANIFEST, parse_manifest
from tests import pods

_HELD = """
import sys, time
from rempart.training.attempts.progress import TrainingRun
from rempart.training.entrypoint import main

checkpoint = TrainingRun.checkpoint

def held(self, step, arrays):
    if step >= {after} and not self.work().resumed_from and not self.stopping:
        time.sleep(1)
    checkpoint(self, step, arrays)

TrainingRun.checkpoint = held
sys.exit(main(["--spec", "env:REMPART_JOB_SPEC", "--checkpoint-every", "{every}"]))
"""


def hold(trial: pods.Trial, after: int, *, every: float = 30) -> None:
    """From now on an attempt that does not resume takes a second for each step after a step, until it is ended.

    The job stores a checkpoint every `every` seconds.
    """
    trial.stub(_HELD.format(after=after, every=every))


def stored_step(trial: pods.Trial, ordered: pod_job.Ordered) -> int:
    """The step of the job's newest checkpoint at the site; 0 if there is none."""
    site = trial.platform.active_site("personal")
    try:
        body = site.read(ordered.bucket, ordered.key.replace("order.json", MANIFEST))
    except ObjectMissing:
        return 0
    manifest = parse_manifest(body, ordered.job_id)
    assert manifest
    return manifest.kept[0].step

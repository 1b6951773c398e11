"""Ship the prediction log to the lake, and delete what is older than it is kept.

**Input**: closed segments of the scorer's journals in the folder of the prediction log (`REMPART_PREDICTION_LOG`,
default `var/prediction-log`). **Output**: `predictions-log/<pipeline>/date=.../hour=.../<sha256>.parquet` in the lake
bucket of the active site, and one ledger record of kind `prediction-log` for each shipment, with the SHA-256 of its
files.

Each entry is stored once, whatever is interrupted: a segment is deleted after its files were read back. Entries of
erased subjects are left out. On the first run of a day, files with entries older than `serving.log.keep_days` of the
pipeline file are deleted at every site, with evidence.

Runs every 15 minutes. A run without a segment reads a folder and the ledger. The task must see the folder that the
scorer writes to: in the embedded stack and in Compose both have the same volume.

**Run again** at any time.

**When it fails**: the message names the pipeline and the cause. The segments stay on disk until a later run ships them,
and other pipelines are shipped. See docs/how-to/prediction-log.md.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import Periodic, highest_classification, task_defaults
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "ship_predictions",
    doc_md=__doc__,
    schedule=Periodic(timedelta(minutes=15)),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "predictions", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def ship() -> dict[str, Any]:
        from rempart.flows.prediction_log.run import run
        from rempart.settings.champions.serving import log_folder

        return run(runtime.platform(), log_folder())

    ship()

if __name__ == "__main__":
    dag_test.run(globals())

"""Restore parts of a restore point into a sandbox beside the running platform, or remove them again.

Use the sandbox to inspect restored data, or to copy from it.

**Input**: a restore point (default: the newest complete one), its parts, and a suffix: database `mlflow` is restored
as `mlflow_<suffix>`, bucket `lake` as `lake-<suffix>`. **Output**: the restored parts, and their checks, which are also
evidence of kind `restore`.

Starts by hand or by REST only. `dry_run` is on unless you switch it off: the first run shows the plan. The platform's
own databases and buckets are not touched. To replace them, stop Airflow and run `rempart restore`
(docs/runbooks/everything-is-gone.md). The sandbox stays until a run with `remove`.

**Run again** at any time: an interrupted run is continued. A finished run finds everything in place.

**When it fails**: the message names the database or object. A restore point older than the newest needs `force`. If
another restore runs on the same machine, run again when it has ended.
"""

from typing import Any

from airflow.sdk import DAG, Param, task

from rempart.orchestration import dag_test, pages, runtime
from rempart.orchestration.dags import highest_classification, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
params = {
    "aside": Param(
        type="string",
        pattern=r"^[a-z][a-z0-9]{0,19}\Z",
        description="Suffix of the restored databases and buckets, such as `before`.",
    ),
    "point": Param(
        None,
        type=["null", "string"],
        pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6,16}\Z",
        description="Id of the restore point; empty for the newest complete one.",
    ),
    "parts": Param(
        [],
        type="array",
        items={
            "type": "string",
            "pattern": r"^(database|bucket|model|dataset):[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}\Z",
        },
        maxItems=50,
        description="database:NAME, bucket:lake, bucket:artifacts, model:NAME, dataset:NAME; empty for all parts.",
    ),
    "remove": Param(False, type="boolean", description="Remove the sandbox instead."),
    "force": Param(
        False,
        type="boolean",
        description="Allow a restore point older than the newest, and databases that hold other rows.",
    ),
    "dry_run": Param(True, type="boolean", description="Only show the plan."),
}

with DAG(
    "restore_to_sandbox",
    doc_md=__doc__,
    schedule=None,
    params=params,
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "restore", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task
    def restore_to_sandbox(params: Any = None) -> dict[str, Any]:
        from rempart.deployment.setup import paths
        from rempart.flows.restore.restore_aside import restore_aside

        options = {name: params[name] for name in ("aside", "point", "parts", "force", "dry_run")}
        result = restore_aside(runtime.platform(), paths.current(), removing=params["remove"], **options)
        return runtime.as_json(result)

    linked(restore_to_sandbox(), pages.POINT_RESTORED)

if __name__ == "__main__":
    dag_test.run(globals())

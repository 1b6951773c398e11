"""Write a restore point of the platform to the backup site, then delete restore points that no retention rule keeps.

**Input**: every platform database, and the objects of the lake and artifact buckets at the backup site's replica.
**Output**: dumps and one manifest of hashes, written last; the asset `restore_point_platform`. The XCom of `prune`
lists what it deleted. The same list is evidence of kind `prune` (docs/how-to/restore-points.md).

With `backup.bundle` in rempart.yaml, a third task `store_bundle` stores the files that a bare machine needs for a
restore at the backup site. It sends only files that changed since the last run (docs/how-to/bundle.md).

Runs every `backup.every` (rempart.yaml), after each promotion, and by REST. On a new platform the first run is within
five minutes.

**Run again** at any time: each run writes a new restore point.

**When it fails**: the message names the database or site. A restore point without a manifest does not count: the last
complete one stays the newest. If only `prune` fails, the new restore point is complete. It is not a failure if a lock
keeps a restore point. It is a failure if a lock cannot be extended, or if somebody hid objects at the site: run
`rempart backup repair`.
"""

from typing import Any

from airflow.sdk import DAG, AssetAny, AssetOrTimeSchedule, task

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.dags import Periodic, highest_classification, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import load_all
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
point = assets.restore_point()
champions = [assets.champion(p.name) for p in load_all().values() if isinstance(p, ModelPipeline)]
every: Any = Periodic(config.load().backup.every)
every_or_promoted = AssetOrTimeSchedule(timetable=every, assets=AssetAny(*champions)) if champions else every

with DAG(
    "backup_platform",
    doc_md=__doc__,
    schedule=every_or_promoted,
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "backup", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:

    @task(outlets=[point])
    def back_up(outlet_events: Any = None) -> dict[str, Any]:
        from rempart.flows.backup.back_up import back_up

        runtime.keep_canary()
        result = runtime.as_json(back_up(runtime.platform()))
        outlet_events[point].extra = {"id": result["id"]}
        return result

    @task
    def prune() -> dict[str, Any]:
        from rempart.flows.backup.prune import prune

        return runtime.as_json(prune(runtime.platform(), dry_run=False))

    @task
    def store_bundle() -> dict[str, Any]:
        from rempart.flows.bundle.bundle import store

        return runtime.as_json(store(runtime.platform()))

    written = linked(back_up(), pages.POINT_WRITTEN, pages.PLACEMENT)
    written >> prune()
    if config.load().backup.bundle:
        written >> store_bundle()

if __name__ == "__main__":
    dag_test.run(globals())

"""Copy every new object of the lake and artifact buckets to another site, and verify it there.

**Input**: the source site's listing. **Output**: the same objects at the target, each read back and compared by
SHA-256; the measured lag; the asset `replica_<source>_to_<target>`.

Nothing is ever deleted at the target. A listing that fails gives no plan and a red task.

**Run again** at will: verified objects are not copied again.

**When it fails**: the message names the keys that could not be copied (the others were). The runbook is
docs/runbooks/replica.md.
"""

from typing import Any

from airflow.sdk import DAG, DeltaTriggerTimetable, task

from rempart import config, sections
from rempart.orchestration import assets, runtime
from rempart.orchestration.dags import platform_settings


def build(pair: sections.ReplicationPair) -> DAG:
    replica = assets.replica(pair.source, pair.target)
    common = platform_settings("replicate") | {"schedule": DeltaTriggerTimetable(pair.every)}
    dag_id = f"replicate_{pair.source}_to_{pair.target}"
    with DAG(dag_id, doc_md=__doc__, **common) as dag:

        @task(outlets=[replica])
        def replicate(outlet_events: Any = None) -> dict[str, Any]:
            from rempart.flows.replicate import replicate

            result = runtime.as_json(replicate(runtime.platform(), pair.source, pair.target))
            outlet_events[replica].extra = result
            return result

        replicate()
    return dag


for pair in config.load().replication:
    globals()[f"replicate_{pair.source}_to_{pair.target}"] = build(pair)

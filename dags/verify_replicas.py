"""Read replicas back at their site, those first that nobody has read for longest, and heal what is damaged.

**Input**: for each pair of rempart.yaml the catalogue of what stands at the target. **Output**: evidence of kind
`replication`: how many replicas were read, and which were not what was copied.

Each day's run reads so many that all are read once in the pair's `read_back`. A replica that is damaged or gone is
copied again from the source.

**Run again** at will: it reads the next part.

**When it fails**: the message names the replicas that could not be healed, and why. docs/runbooks/replica.md.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, DeltaTriggerTimetable, task

from rempart import config
from rempart.orchestration import runtime
from rempart.orchestration.dags import platform_settings

schedule = DeltaTriggerTimetable(timedelta(days=1))

with DAG("verify_replicas", doc_md=__doc__, **platform_settings("replicate") | {"schedule": schedule}):
    for pair in config.load().replication:

        @task(task_id=f"verify_{pair.source}_to_{pair.target}")
        def verify(source: str, target: str) -> dict[str, Any]:
            from rempart.flows.verify_replicas import verify

            return runtime.as_json(verify(runtime.platform(), source, target, say=print))

        verify(pair.source, pair.target)

"""Read replicas back at their site, longest unread first, and repair damaged ones.

**Input**: for each pair of rempart.yaml the catalogue of the objects at the target. **Output**: evidence of kind
`replication`: the number of replicas read, and the replicas that differ from the copied object.

Two runs a day read every new replica within 24 hours, and enough of the others to read each once in the pair's
`read_back`. A damaged or missing replica is copied again from the source.

One task for each site measures its content: objects and bytes of every bucket, old versions, and locks that end soon.
The result is evidence of kind `usage`. The task reads only listings, and the ledger gets only counts.

The task `compare_features` compares 1,000 entities of each online feature view with the values that the loaded
snapshot gives. The result is evidence of kind `skew`, with the seed of the sample.

**Run again** at any time: it reads the next part, measures again, and compares another sample.

**When it fails**: the message names the replicas that could not be repaired, with the reason
(docs/runbooks/replica.md), the site and bucket that could not be measured (docs/runbooks/site.md), or the feature view
whose online values differ (docs/how-to/compare-online-with-offline.md).
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import dag_test, runtime
from rempart.orchestration.dags import Periodic, highest_classification, task_defaults
from rempart.replication.read_back import READ_BACK_EVERY
from rempart.settings import config
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags

with DAG(
    "verify_replicas",
    doc_md=__doc__,
    schedule=Periodic(READ_BACK_EVERY),
    catchup=False,
    max_active_runs=1,
    tags=["rempart", "replicate", tag_of(highest_classification())],
    default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
) as dag:
    for pair in config.load().replication:

        @task(task_id=f"verify_{pair.source}_to_{pair.target}")
        def verify(source: str, target: str) -> dict[str, Any]:
            from rempart.flows.replication.verify_replicas import verify

            return runtime.as_json(verify(runtime.platform(), source, target))

        verify(pair.source, pair.target)

    for name in config.load().sites:

        @task(task_id=f"measure_{name}")
        def measure(site: str) -> dict[str, Any]:
            from rempart.flows.monitoring.site_usage import measure_site

            return measure_site(runtime.platform(), site)

        measure(name)

    @task
    def compare_features() -> dict[str, Any]:
        from secrets import randbits

        from rempart.flows.monitoring.feature_skew import compare_all

        return runtime.as_json(compare_all(runtime.platform(), seed=randbits(31)))

    compare_features()

if __name__ == "__main__":
    dag_test.run(globals())

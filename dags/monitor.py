"""Watch the champion of a pipeline: have its inputs, its predictions or its errors moved since it was trained?

**Input**: the rows of the feature store that the champion did not learn from, and the champion's frozen training set.
**Output**: a verdict (green, red or unknown) as evidence of kind `monitoring`; if it is red, the asset
`drift_<pipeline>`.

The features that the champion reads and its predictions are compared with the training data, and the gate's metric
with that of the hold-out. A movement counts if it is no chance, and larger than any between months of the training
data. Too few rows and late data are unknown, never green. Beside it, the verdict tells how the newest candidate does on
the same rows, and whether a model tells them from the training data. `monitoring` of the pipeline file sets window and
limits.

**Run again** at any time: each run is one more verdict.

**When it fails**: the message names what kept the champion from being judged; the verdict is recorded as unknown. A
red verdict is no failure: read docs/runbooks/drift-alarm.md. Without a champion the run is skipped.
"""

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, runtime
from rempart.orchestration.dags import at, model_dags, task_defaults
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, drift = pipeline.name, assets.drift(pipeline.name)
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=at(pipeline.schedules.monitor) if pipeline.schedules.monitor else None,
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "monitor", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def watch() -> dict[str, Any]:
            from rempart.flows.monitoring.champion_drift import watch

            if (found := watch(runtime.platform(), runtime.model_pipeline(name))) is None:
                raise AirflowSkipException(f"Model {name} has no champion yet")
            return found.body()

        @task(outlets=[drift])
        def publish_drift(result: Any, outlet_events: Any = None) -> None:
            if result["outcome"] != "red":
                raise AirflowSkipException(f"The verdict is {result['outcome']}")
            outlet_events[drift].extra = {"version": result["version"], "reasons": result["reasons"]}

        publish_drift(watch())
    return dag


globals().update(model_dags("monitor", build))

if __name__ == "__main__":
    dag_test.run(globals())

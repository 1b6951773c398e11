"""Update the feature store to the newest snapshot of a pipeline.

**Input**: the snapshot (the newest, or the one that the run names). With `prediction.from` also the newest snapshot of
the label pipeline, and with `kind: used` the loaded features of the pipelines whose views are used. Each starts this
DAG as well; such a run is skipped until the pipeline's own first snapshot and those features are there.
**Output**: the offline tables and the online store of every feature view; the asset `features_<pipeline>`.

The snapshot is loaded into PostgreSQL, each view is built as of its declared time, and changed rows are written to
the online store, all views in one transaction. The watermark moves only after the online rows were compared with the
offline rows. A view whose columns changed gets a table of its own; the former one stays until the next run.

**Run again** at any time: rows that exist are not written again.

**When it fails**: the message names the view. The watermark did not move, so the next run processes the same rows
again.
"""

from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import assets, dag_test, pages, runtime
from rempart.orchestration.dags import model_dags, parameter, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.settings.pipelines import sources_of
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, features = pipeline.name, assets.features(pipeline.name)
    labels = pipeline.prediction.from_.pipeline if pipeline.prediction.from_ else None
    snapshot = parameter(
        None,
        type=["null", "string"],
        pattern=r"^[0-9a-f]{32}\Z",
        description="Id of the snapshot to load; empty for the newest.",
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=assets.inputs_of_features(name, labels, sources_of(pipeline)),
        params={"snapshot": snapshot},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "features", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task(outlets=[features])
        def materialize(params: Any = None, dag_run: Any = None, outlet_events: Any = None) -> dict[str, Any]:
            from rempart.flows.training.materialize import materialize

            with runtime.waits(dag_run):
                loaded = materialize(runtime.platform(), runtime.model_pipeline(name), params["snapshot"])
            result = runtime.as_json(loaded)
            outlet_events[features].extra = {"snapshot": result["snapshot"]}
            return result

        linked(materialize(), pages.PLACEMENT)
    return dag


globals().update(model_dags("materialize_features", build))

if __name__ == "__main__":
    dag_test.run(globals())

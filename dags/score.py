"""Predict rows in batch with the champion of a pipeline: new rows in, predictions out.

**Input**: a snapshot (the newest, or `snapshot`) of the pipeline in `scoring.from`; without it, of the pipeline itself:
its rows without a label of `prediction.from`. With `from` and `to`, the rows of that window, whatever their target: a
back-fill. **Output**: Parquet files and a Delta Lake table under `predictions/<rows>/<pipeline>/` of the lake's bucket,
the table of `scoring.into`, evidence, and the asset `predictions_<pipeline>`.

Only the champion of signed evidence answers, after its files were compared with their SHA-256. The same champion
predicts a snapshot's rows once. Of a later snapshot it predicts the partitions that changed. Predictions of
another champion stand beside them. Rows that cannot be predicted (a needed column is empty, a value is not declared)
go to quarantine with their reason.

`schedules.score` starts it. Without it, new features (or a new snapshot of `scoring.from`) start it, if rows without a
target can come. Task `expire` deletes predictions older than `scoring.keep_days` at every site.

**Run again** at any time: a run that was killed left the former table, and the next run completes it.

**When it fails**: the message names the model, the column, the site or the database. If `scoring.into` refused, the
predictions are in the lake, and the next run brings them into your table.
"""

from typing import Any

from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from rempart.orchestration import assets, dag_test, runtime
from rempart.orchestration.dags import at, model_dags, parameter, task_defaults
from rempart.settings import config
from rempart.settings.champions.scoring import has_new_rows
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
_MOMENT = r"^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?\Z"


def starts_on(pipeline: ModelPipeline) -> Any:
    scoring = pipeline.scoring
    if pipeline.schedules.score:
        return at(pipeline.schedules.score)
    if scoring is None or not has_new_rows(scoring, pipeline.prediction, pipeline.columns):
        return None
    return assets.snapshot(scoring.from_) if scoring.from_ else assets.features(pipeline.name)


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, predictions = pipeline.name, assets.predictions(pipeline.name)
    snapshot = parameter(
        None,
        type=["null", "string"],
        pattern=r"^[0-9a-f]{32}\Z",
        description="Id of the snapshot with the rows to predict; empty for the newest.",
    )
    edges = {
        edge: parameter(None, type=["null", "string"], pattern=_MOMENT, maxLength=25, description=told)
        for edge, told in (
            ("from", "First date or time (UTC) of the window, in the column of `partition_by`; empty for no bound."),
            ("to", "End of the window: the first date or time that is not in it; empty for no bound."),
        )
    }
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=starts_on(pipeline),
        params={"snapshot": snapshot, **edges},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "score", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults, owner=pipeline.owner or defaults.owner, retries=defaults.retries, timeout=defaults.timeout
        ),
        auto_register=False,
    ) as dag:

        @task
        def score(params: Any = None, dag_run: Any = None) -> dict[str, Any]:
            from rempart.flows.prediction.score import score

            window = {"since": params["from"], "until": params["to"]}
            with runtime.waits(dag_run):
                spec = runtime.model_pipeline(name)
                return runtime.as_json(score(runtime.platform(), spec, snapshot=params["snapshot"], **window))

        @task(outlets=[predictions])
        def publish_predictions(result: Any, outlet_events: Any = None) -> None:
            if not result["new"]:
                raise AirflowSkipException("No new predictions: no downstream DAG needs to run.")
            outlet_events[predictions].extra = {key: result[key] for key in ("scoring", "version", "snapshot", "rows")}

        @task
        def expire() -> dict[str, Any]:
            from rempart.flows.erasure.expire_predictions import expire

            return runtime.as_json(expire(runtime.platform(), runtime.model_pipeline(name)))

        result = score()
        publish_predictions(result)
        result >> expire()
    return dag


globals().update(model_dags("score", build))

if __name__ == "__main__":
    dag_test.run(globals())

"""Train a candidate on the point-in-time training set of a pipeline.

**Input**: the feature store. **Output**: a frozen training set in the lake bucket, the job's files in the artifacts
bucket, an MLflow run, and a registered candidate; the asset `candidate_<pipeline>`.

The job reads one hashed Parquet file and needs no database. The same entry point runs on this machine and in a pod.
Held-out rows are never used for training. With `training.backend: kubernetes` the task `run` tries the pools in their
order (its rendered template shows the plan) and waits for a place without using a worker. `train` then registers the
job's result.

With `retrain.on_drift` a red verdict of `monitor_<pipeline>` starts a run, too. `decide_training` looks at the
cool-down and the budget. If the run may not train, it is skipped, and its note says why.

**Run again** at any time: a job with the same data, trainer, parameters, seed and code is reused, not repeated.

**When it fails**: the message ends with the job's last log lines. A fault of the trainer or its parameters fails the
task at once. If MLflow or a site does not answer, the task is retried, and finished training is kept.
"""

from typing import Any

from airflow.sdk import DAG, AssetOrTimeSchedule

from rempart.orchestration import assets, dag_test
from rempart.orchestration.dags import at, model_dags, parameter, task_defaults, time_limit
from rempart.orchestration.training.training import training_tasks
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of
from rempart.training.trainers.trainers import params_schema

settings = config.load()
defaults = settings.dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    name, candidate = pipeline.name, assets.candidate(pipeline.name)
    schedule: Any = assets.inputs_of_training(name, on_drift=pipeline.retrain.on_drift)
    if pipeline.schedules.train:
        schedule = AssetOrTimeSchedule(timetable=at(pipeline.schedules.train), assets=schedule)
    trainer_params = parameter(
        {},
        type="object",
        **params_schema(pipeline.trainer.use, pipeline.prediction.task),
        description='Parameters that replace those of the pipeline\'s trainer, such as {"max_iter": 300}.',
    )
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=schedule,
        params={"trainer_params": trainer_params},
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "train", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults,
            owner=pipeline.owner or defaults.owner,
            retries=defaults.retries,
            timeout=time_limit(pipeline, pipeline.trainer.timeout),
        ),
        auto_register=False,
    ) as dag:
        training_tasks(pipeline, candidate, settings.training)
    return dag


globals().update(model_dags("train", build))

if __name__ == "__main__":
    dag_test.run(globals())

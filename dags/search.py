"""Search for the parameters of a pipeline's trainer, and train a candidate with the best.

**Input**: the feature store. **Output**: one record of kind `search` in the ledger, a run in MLflow with a child for
each trial, and a registered candidate; the asset `candidate_<pipeline>`, so the gate judges it.

Each pipeline with `trainer.search` has this DAG. `freeze` stores the training set once. `ask_1` proposes the first
generation of trials, `trial_1` runs them at the same time, `ask_2` learns from them, and so on. A trial is a training
job that is measured on the validation part. No trial gets a held-out row. `choose` computes the best trial's figure
again from its stored model. `train` then does what `train_<pipeline>` does, with the parameters that were found.

With `training.backend: kubernetes` the trials are pods, and each tries the pools in their order.

**Run again** at any time: equal trials are the same jobs, and their results are reused. A search that its limits ended
goes on where it stopped if you raise them.

**When it fails**: a trial that fails does not end the search. The search fails if no trial is complete, or if the best
trial's model does not give the figure that its job told. If a site or MLflow does not answer, the task is retried, and
finished trials are kept.
"""

from airflow.sdk import DAG

from rempart.orchestration import assets, dag_test
from rempart.orchestration.dags import model_dags, task_defaults, time_limit
from rempart.orchestration.training.search import search_tasks
from rempart.settings import config
from rempart.settings.pipeline import ModelPipeline
from rempart.sovereignty.dag_rules import tag_of

settings = config.load()
defaults = settings.dags


def build(dag_id: str, pipeline: ModelPipeline) -> DAG:
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=None,
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "search", tag_of(pipeline.classification)],
        default_args=task_defaults(
            defaults,
            owner=pipeline.owner or defaults.owner,
            retries=defaults.retries,
            timeout=time_limit(pipeline, pipeline.trainer.timeout),
        ),
        auto_register=False,
    ) as dag:
        search_tasks(pipeline, assets.candidate(pipeline.name), settings.training)
    return dag


globals().update(model_dags("search", build, lambda pipeline: pipeline.trainer.search is not None))

if __name__ == "__main__":
    dag_test.run(globals())

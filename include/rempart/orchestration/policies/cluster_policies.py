"""Airflow's cluster policies (entry point group `airflow.policy`): what every DAG and every pod must pass.

Airflow imports this module in each of its processes. `dag_policy` runs wherever a DAG file is read: dag-processor, CLI
and worker. `pod_mutation_hook` runs where a pod is made: in the worker (KubernetesPodOperator) and in the scheduler
(KubernetesExecutor). Both run last, so that no other policy (an airflow_local_settings.py) changes what was judged.
Nothing here is decided: rempart.sovereignty does that.
"""

from __future__ import annotations

import gc
import os
import sys
from importlib import import_module
from typing import Any

from airflow.policies import hookimpl

from rempart.orchestration.policies import egress_hook
from rempart.sovereignty import dag_rules, pods  # noqa: F401 # loaded here once, not in each process that is forked

_LOADED_ONCE = (
    "boto3",
    "rempart.flows.shared.platform",
    "rempart.orchestration.assets",
    "rempart.orchestration.dag_test",
    "rempart.orchestration.dags",
    "rempart.orchestration.training.training",
    "rempart.sites.s3.site",
)
"""Modules that DAG files and tasks import. Strings avoid an import cycle: these modules import the policies."""
_LOADED_FOR_TASKS = (
    "airflow.sdk.execution_time.supervisor",
    "airflow.sdk.execution_time.task_runner",
    "duckdb",
    "obstore.store",
    "onnx",
    "pyarrow.compute",
    "pyarrow.csv",
    "pyarrow.parquet",
    "rempart.features.parquet_store.training_sets",
    "rempart.flows.ingestion.reingest",
    "rempart.flows.training.materialize",
    "rempart.flows.training.train",
    "rempart.flows.training.validate",
)
"""Modules that tasks of a pipeline import as well: some 0.2 GB with Great Expectations and Feast, which they share."""
_RUN_TASKS = frozenset({"airflow.executors.local_executor", "celery.worker"})
"""Modules of the processes that fork for each task."""


def _load_once() -> None:
    """Load _LOADED_ONCE in the process that forks: the dag-processor forks for each file, a worker for each task.

    Not sooner: Airflow imports this module while it starts, when its SDK cannot be imported yet. A task has seconds
    less to do where its parent has loaded its packages, and they share its memory.
    """
    if "airflow.sdk" not in sys.modules:
        return
    loaded = len(sys.modules)
    for name in _LOADED_ONCE:
        import_module(name)
    if _RUN_TASKS & sys.modules.keys():
        for name in _LOADED_FOR_TASKS:
            import_module(name)
        import_module("rempart.lean_imports").load("mlflow")
        import_module("rempart.ingestion.expectations").load()
        import_module("rempart.features.quick_feast").load()
        import_module("rempart.features.indexed_store")  # after Feast, which both import
        import_module("rempart.features.online_store.feast_store")
        import_module("rempart.features.parquet_store.feast_store")
        import_module("airflow.sdk.listener").get_listener_manager()  # it loads the plugins
    if len(sys.modules) > loaded:
        gc.freeze()  # each task would look through these objects again (0.3 s), and copy their memory


os.register_at_fork(before=_load_once)
egress_hook.install()  # before any DAG file, plugin or task: Airflow imports this module as it starts


@hookimpl(trylast=True)
def dag_policy(dag: Any) -> None:
    """Refuse a DAG that breaks a rule, with every violation in one message, which becomes the file's import error.

    A permitted DAG passes its classification on to its pods.
    """
    from airflow.exceptions import AirflowClusterPolicyViolation

    from rempart.orchestration.policies.enforcement import label_worker_pods, refusal

    if reason := refusal(dag):
        raise AirflowClusterPolicyViolation(reason)
    label_worker_pods(dag)


@hookimpl(trylast=True)
def pod_mutation_hook(pod: Any) -> None:
    """Hold a pod in its pool's region, with allowed images and a restricted security context, or refuse it."""
    from rempart.orchestration.policies.enforcement import restrict

    restrict(pod)

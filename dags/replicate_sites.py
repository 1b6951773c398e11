"""Copy new and changed objects from a pair's source site to its target site, and apply deletions.

**Input**: the listings of both sites. **Output**: the same objects at the target, each verified by SHA-256; the lag,
in evidence of kind `replication` and as metrics; the asset `replica_<source>_to_<target>`, whose event carries the
result.

`prepare` compares both sites and stores the work in pieces at the target. `carry` copies them, one task for each piece
of 2,000 keys; without work there is no such task. `conclude` checks that every object arrived, and measures the lag.
It also runs if a `carry` failed: objects that this task did not copy count as failed, and the next run copies them.

Objects that are gone at the source are hidden at the target. Their versions stay readable until `deletes.keep` of the
pair has passed. If one run would hide more than `deletes` allows, the task stops until a person decides.

A run is **skipped** while another run of the pair is active, or while the source is not the active site. The log of
`prepare` gives the reason.

**Run again** at any time: verified objects are not copied again. After the task has asked for a number of keys,
`accept_deletes` with that number hides them once.

**When it fails**: the message names the keys that did not reach the target (all others did), or the lag and its
objective. If a run is still active when `lag_objective` has passed since it was queued, the triggerer's log says so at
once, and the ledger does when the run concludes. A killed `prepare` is retried within its own lease. The lease of a
run that died completely ends after 15 minutes. See docs/how-to/observe-replication.md for monitoring and
docs/runbooks/replica.md for remedies.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, task

from rempart.orchestration import assets, dag_test, pages, replication, runtime
from rempart.orchestration.dags import Periodic, highest_classification, is_wanted, parameter, task_defaults
from rempart.orchestration.links import linked
from rempart.settings import config, sections
from rempart.sovereignty.dag_rules import tag_of

defaults = config.load().dags
accept_deletes = parameter(
    0,
    type="integer",
    minimum=0,
    maximum=1_000_000_000,
    description=(
        "Hide this number of keys at the target that are gone at the source, although it exceeds what "
        "`deletes` allows in one run."
    ),
)


def build(dag_id: str, pair: sections.ReplicationPair) -> DAG:
    source, target, replica = pair.source, pair.target, assets.replica(pair.source, pair.target)
    with DAG(
        dag_id,
        doc_md=__doc__,
        schedule=Periodic(pair.every),
        params={"accept_deletes": accept_deletes},
        deadline=replication.late_alert(pair),
        catchup=False,
        max_active_runs=1,
        tags=["rempart", "replicate", tag_of(highest_classification())],
        default_args=task_defaults(defaults, owner=defaults.owner, retries=defaults.retries, timeout=defaults.timeout),
    ) as dag:

        @task
        def prepare(ti: Any = None, run_id: str | None = None) -> list[list[dict[str, str]]]:
            from rempart.flows.replication.replicate_in_tasks import prepare

            with replication.skipped_without_lease():
                ready = prepare(runtime.platform(), source, target, run_name=f"DAG run {run_id}")
            ti.xcom_push("plan", ready.as_json())
            return replication.shares(ready.pieces())

        # each task keeps to the bandwidth limit by itself
        @task(max_active_tis_per_dagrun=1 if pair.bandwidth else None)
        def carry(plan: Any, pieces: Any) -> list[dict[str, Any]]:
            from rempart.flows.replication.replicate_in_tasks import carry, prepared

            platform, ready = runtime.platform(), prepared(plan)
            return [carry(platform, ready, piece) for piece in pieces]

        @task(outlets=[replica], multiple_outputs=False, retry_policy=replication.NO_RETRY)
        def conclude(
            plan: Any, carried: Any, params: Any = None, outlet_events: Any = None, dag_run: Any = None
        ) -> dict[str, Any]:
            from rempart.flows.replication.replicate import check_objective, record_late
            from rempart.flows.replication.replicate_in_tasks import conclude, prepared

            platform, ready = runtime.platform(), prepared(plan)
            result = conclude(
                platform,
                ready,
                [piece for share in carried or () for piece in share],
                accept_deletes=params["accept_deletes"],
                measured=lambda result: replication.send_gauges(source, target, result),
            )
            ended = ready.began + timedelta(seconds=result.seconds)
            record_late(platform, source, target, dag_run.run_id, dag_run.start_date, ended)
            check_objective(platform.config, source, target, result)
            told = runtime.as_json(result)
            outlet_events[replica].extra = {name: value for name, value in told.items() if name != "failed"}
            return told

        ready: Any = prepare()  # Airflow declares no index of a task's result
        carried = carry.partial(plan=ready["plan"]).expand(pieces=ready)
        # the last task releases the lease of the first, whatever happened to the tasks between them
        concluded = linked(conclude(ready["plan"], carried), pages.PLACEMENT)
        concluded.as_teardown(setups=ready, on_failure_fail_dagrun=True)
    return dag


pairs = {f"replicate_{pair.source}_to_{pair.target}": pair for pair in config.load().replication}
globals().update({dag_id: build(dag_id, pair) for dag_id, pair in pairs.items() if is_wanted(dag_id)})

if __name__ == "__main__":
    dag_test.run(globals())

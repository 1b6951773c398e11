"""Try to reach hosts from a task, each way twice: in the task's own process, and in a child without the hook."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Param, task

SETTINGS = {"owner": "mlops", "execution_timeout": timedelta(minutes=10), "retries": 0}
TAGS = ["classification:internal"]

with DAG(
    "egress_layers",
    schedule=None,
    default_args=SETTINGS,
    tags=TAGS,
    params={"attempts": Param([], type="array", description="Each: way, host, port, child.")},
    doc_md=__doc__,
) as dag:

    @task
    def attempt_all(params: dict[str, Any]) -> list[dict[str, str]]:
        import egress_attempts  # the module is in this file's folder

        def attempt(way: str, host: str, port: int, child: bool) -> dict[str, str]:
            if not child:
                return egress_attempts.attempt(way, host, port)
            command = [sys.executable, egress_attempts.__file__, way, host, str(port)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
            return dict(json.loads(done.stdout.splitlines()[-1]))

        return [attempt(**asked) for asked in params["attempts"]]

    attempt_all()  # type: ignore[call-arg,misc] # Airflow passes the context

with DAG(
    "egress_in_trigger",
    schedule=None,
    default_args=SETTINGS,
    tags=TAGS,
    params={"host": Param("", type="string"), "port": Param(1, type="integer")},
    doc_md="A task that waits in the triggerer, where its trigger opens a connection.",
):

    class AskInTriggerer(BaseOperator):
        def execute(self, context: Any) -> None:
            from egress_trigger import ConnectTrigger  # from the project's plugins folder, as the triggerer imports it

            params = context["params"]
            self.defer(trigger=ConnectTrigger(params["host"], params["port"]), method_name="told")

        def told(self, context: Any, event: dict[str, str]) -> dict[str, str]:
            return event

    AskInTriggerer(task_id="ask")

if __name__ == "__main__":
    dag.test(run_conf={"attempts": json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))})

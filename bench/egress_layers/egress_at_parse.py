"""A DAG file that connects as it is read, before there is any task."""

from __future__ import annotations

import socket
from datetime import timedelta

from airflow.sdk import DAG, task

socket.create_connection(("203.0.113.10", 9001), 3).close()

with DAG("egress_at_parse", tags=["classification:internal"], default_args={"owner": "mlops"}):

    @task(execution_timeout=timedelta(minutes=1))
    def nothing() -> None:
        """It is never reached."""

    nothing()

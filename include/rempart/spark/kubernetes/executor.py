"""Start an executor in its pod: `python -m rempart.spark.kubernetes.executor`, with the variables that Spark sets.

This process becomes the executor's JVM. What Java and Python write is discarded, as on one machine: it may quote values
of rows.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from rempart.errors import RempartError, SparkError
from rempart.spark import session
from rempart.spark.kubernetes import pods

BACKEND = "org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend"
_OPTION = re.compile(r"SPARK_JAVA_OPT_(\d+)\Z")
_ARGUMENTS = {
    "--driver-url": "SPARK_DRIVER_URL",
    "--executor-id": "SPARK_EXECUTOR_ID",
    "--cores": "SPARK_EXECUTOR_CORES",
    "--app-id": "SPARK_APPLICATION_ID",
    "--hostname": "SPARK_EXECUTOR_POD_IP",
    "--resourceProfileId": "SPARK_RESOURCE_PROFILE_ID",
    "--podName": "SPARK_EXECUTOR_POD_NAME",
}
"""Arguments of the backend, and the variables from which Spark's own image takes them (its `entrypoint.sh`)."""


def command(variables: Mapping[str, str], java: Path, home: Path, folder: Path) -> list[str]:
    """Return the command line of an executor's JVM. Pure.

    `folder`: of its own, with its configuration. Raises SparkError if a variable is missing.
    """
    wanted = (*_ARGUMENTS.values(), "SPARK_EXECUTOR_MEMORY", pods.SECRET_FILE)
    if missing := [name for name in wanted if not variables.get(name)]:
        raise SparkError(
            f"start an executor: {', '.join(missing)} is missing",
            "Spark starts executors from the template of `rempart.spark.kubernetes.pods`; start none by hand.",
        )
    numbered = [(int(found[1]), value) for name, value in variables.items() if (found := _OPTION.match(name))]
    arguments = [part for option, name in _ARGUMENTS.items() for part in (option, variables[name])]
    return [
        str(java / "bin" / "java"),
        *(value for _, value in sorted(numbered)),
        f"-Djava.io.tmpdir={folder}",
        # where this pod has the secret: to ask the driver for the rest of the configuration, and then to work
        "-Dspark.master=k8s://",  # Spark reads the file there alone, and asks the driver before it knows its master
        f"-Dspark.authenticate.secret.file={variables[pods.SECRET_FILE]}",
        f"-Dspark.authenticate.secret.executor.file={variables[pods.SECRET_FILE]}",
        f"-Xmx{variables['SPARK_EXECUTOR_MEMORY']}",
        "-cp",
        f"{folder}:{home}/jars/*",
        BACKEND,
        *arguments,
    ]


def main() -> NoReturn:
    """Become the executor. Exit status 1 if that is not possible, with the reason in the pod's log."""
    try:
        home, java = session.spark_home(), session.java_home()
        folder = Path(os.environ.get("TMPDIR") or "/tmp") / "executor"  # noqa: S108 - in the pod
        line = command(os.environ, java, home, folder)
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "log4j2.properties").write_text(session.QUIET, encoding="utf-8")
    except (RempartError, OSError) as error:
        sys.exit(str(error))
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    own = {
        "SPARK_HOME": str(home),
        "JAVA_HOME": str(java),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": os.environ["SPARK_EXECUTOR_POD_IP"],
    }
    os.execve(line[0], line, {**os.environ, **own})  # noqa: S606 - Spark's own command line


if __name__ == "__main__":
    main()

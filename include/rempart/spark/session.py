"""Open the session of a Spark job: authenticated, encrypted, without a web page, within limits of memory.

The whole configuration goes to Spark by a file in the job's own folder, so no secret stands on a command line. Spark
writes nothing outside of that folder, loads no package, and logs nothing: its messages may quote values of rows.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rempart.errors import SparkError
from rempart.process_environment import variables
from rempart.settings.pipeline_sections import SparkResources

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOOPBACK = "127.0.0.1"
ROWS_PER_BATCH = 20_000
"""Rows of an Arrow batch between the JVM and Python."""
QUIET = """status = error
rootLogger.level = off
rootLogger.appenderRef.none.ref = none
appender.none.type = Null
appender.none.name = none
"""
"""log4j2: Spark's messages and stack traces may quote values of rows."""
_QUOTING = ("DataFrameQueryContextLogger", "SQLQueryContextLogger")
"""Loggers of PySpark that write an error's message to standard error."""
HOSTS = "hosts"
"""Name of the file, beside the configuration, with each name that a session on this machine may look up."""
JAVA = "-Duser.timezone=UTC -Djava.net.preferIPv4Stack=true -XX:+ExitOnOutOfMemoryError"


def fixed(work: Path) -> dict[str, str]:
    """Return the configuration that every session has, wherever it runs, with `work` as its own folder."""
    return {
        "spark.api.mode": "classic",
        # nobody reads: no page, no event log, no endpoint to submit jobs to
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "false",
        "spark.master.rest.enabled": "false",
        "spark.metrics.staticSources.enabled": "false",
        "spark.sql.streaming.ui.enabled": "false",
        # nobody listens: each connection proves the job's secret, and what it carries is encrypted, on disk too
        "spark.authenticate": "true",
        "spark.network.crypto.enabled": "true",
        "spark.network.crypto.saslFallback": "false",
        "spark.network.crypto.cipher": "AES/GCM/NoPadding",
        "spark.io.encryption.enabled": "true",
        "spark.io.encryption.keySizeBits": "256",
        # nothing comes from or goes to elsewhere
        "spark.jars.ivy": str(work / "ivy"),
        "spark.sql.catalogImplementation": "in-memory",
        "spark.sql.warehouse.dir": str(work / "warehouse"),
        "spark.local.dir": str(work / "spill"),
        # the same rows give the same result
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "true",
        "spark.sql.variable.substitute": "false",  # `${env:NAME}` in a text stays as it is
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(ROWS_PER_BATCH),
        "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
        "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
        # a task that fails runs again; the slow one is not started twice
        "spark.task.maxFailures": "4",
        "spark.speculation": "false",
        "spark.executor.heartbeatInterval": "10s",
        "spark.network.timeout": "120s",
        # messages quote no value
        "spark.sql.maxPlanStringLength": "0",
        "spark.python.worker.faulthandler.enabled": "false",
        "spark.driver.extraJavaOptions": f"{JAVA} -Djava.io.tmpdir={work / 'tmp'}",
        "spark.executor.extraJavaOptions": f"{JAVA} -Djava.io.tmpdir={work / 'tmp'}",
    }


def configuration(
    resources: SparkResources, work: Path, secret: str, *, master: str | None = None, name: str = "rempart"
) -> dict[str, str]:
    """Return the whole configuration of a session on this machine. Pure.

    `master`: where its tasks run; by default in executors of their own, as many as `resources` says. It holds the
    secret: write it to a file that only its owner reads, and never log it.
    """
    executors, cores, memory = resources.executors, resources.cores, resources.memory
    settings = {**fixed(work), **bounded(resources)}
    for part in ("driver", "executor"):  # Java asks for the machine's own name: no name server is asked
        settings[f"spark.{part}.extraJavaOptions"] += f" -Djdk.net.hosts.file={work / 'conf' / HOSTS}"
    return {
        **settings,
        "spark.master": master or f"local-cluster[{executors},{cores},{memory}]",
        "spark.app.name": name,
        "spark.authenticate.secret": secret,
        "spark.driver.host": LOOPBACK,
        "spark.driver.bindAddress": LOOPBACK,
    }


def bounded(resources: SparkResources) -> dict[str, str]:
    """Return what a session may use of each machine, and the Python that runs there. Pure."""
    return {
        "spark.driver.memory": f"{resources.driver_memory}m",
        "spark.driver.maxResultSize": f"{max(1, resources.driver_memory // 2)}m",
        "spark.executor.memory": f"{resources.memory}m",
        "spark.executor.cores": str(resources.cores),
        # a collector with threads of its own takes them from the work where a process has one core
        "spark.driver.defaultJavaOptions": "-XX:+UseSerialGC",
        "spark.executor.defaultJavaOptions": "-XX:+UseSerialGC" if resources.cores == 1 else "-XX:+UseG1GC",
        "spark.sql.shuffle.partitions": str(max(8, 4 * resources.executors * resources.cores)),
        "spark.pyspark.python": sys.executable,
        "spark.pyspark.driver.python": sys.executable,
    }


def properties(settings: Mapping[str, str]) -> str:
    """Return a configuration as a properties file. Raises SparkError if a value would end its line."""
    for name, value in settings.items():
        if "\n" in value or "\r" in value:
            raise SparkError(f"configure Spark: {name} has a line end", "Choose a folder without one in its name.")
    escaped = {name: value.replace("\\", "\\\\") for name, value in settings.items()}
    return "".join(f"{name} {value}\n" for name, value in sorted(escaped.items()))


@contextmanager
def opened(
    resources: SparkResources,
    work: Path,
    *,
    secret: str | None = None,
    master: str | None = None,
    name: str = "rempart",
) -> Iterator[SparkSession]:
    """Open a session on this machine; one for each process. `work`: a new folder of its own, with space for the spill.

    `secret`: what its executors prove; by default a new one. Raises SparkError if there is no Spark or Java here.
    """
    settings = configuration(resources, work, secret or secrets.token_hex(32), master=master, name=name)
    with started(settings, work) as session:
        yield session


@contextmanager
def started(settings: Mapping[str, str], work: Path) -> Iterator[SparkSession]:
    """Open a session of a configuration, which Spark reads from a file in `work`. Raises SparkError."""
    home = spark_home()
    prepare(settings, work, home)
    places = {
        "SPARK_HOME": str(work / "home"),
        "SPARK_CONF_DIR": str(work / "conf"),
        "SPARK_LOCAL_DIRS": str(work / "spill"),
        "SPARK_LOCAL_IP": settings["spark.driver.bindAddress"],
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "PYSPARK_SUBMIT_ARGS": "pyspark-shell",
        "JAVA_HOME": str(java_home()),
    }
    session: SparkSession | None = None
    with ExitStack() as ending:
        ending.enter_context(variables(places))
        ending.callback(lambda: _stop(session))
        from pyspark.errors import PySparkException
        from pyspark.logger import PySparkLogger
        from pyspark.sql import SparkSession as Session

        for logger in _QUOTING:
            PySparkLogger.getLogger(logger).disabled = True
        try:
            session = Session.builder.getOrCreate()
        except (PySparkException, OSError, RuntimeError) as cause:
            raise SparkError(
                f"start Spark: it ended with {type(cause).__name__}",
                "Check that the machine has the memory that `spark:` of the pipeline file asks for, and space in the "
                "folder for temporary files; then run `make setup-spark`.",
            ) from None
        yield session


def _stop(session: SparkSession | None) -> None:
    if session is not None:
        with suppress(Exception):  # its JVM may be gone
            session.stop()
        end_gateway()


def end_gateway() -> None:
    """End the JVM of this process, which would otherwise stay until the process ends."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    if gateway is None:
        return
    with suppress(Exception):
        gateway.shutdown()
    if (process := getattr(gateway, "proc", None)) is not None:
        with suppress(Exception):
            process.stdin.close()  # the JVM ends with its standard input
            process.wait(10)
    SparkContext._gateway = SparkContext._jvm = None


def prepare(settings: Mapping[str, str], work: Path, home: Path) -> None:
    """Write what Spark reads: its configuration, and a home in which it may write, for its owner alone."""
    work.mkdir(mode=0o700, parents=True, exist_ok=True)
    work.chmod(0o700)
    for folder in ("conf", "home", "spill", "tmp"):
        (work / folder).mkdir(mode=0o700, exist_ok=True)
    (work / "conf" / "log4j2.properties").write_text(QUIET, encoding="utf-8")
    own = dict.fromkeys(("localhost", socket.gethostname()))
    (work / "conf" / HOSTS).write_text("".join(f"{LOOPBACK} {name}\n" for name in own), encoding="utf-8")
    defaults = work / "conf" / "spark-defaults.conf"
    with os.fdopen(os.open(defaults, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(properties(settings))
    for entry in ("bin", "jars", "python", "sbin"):  # executors write below SPARK_HOME
        link = work / "home" / entry
        if (home / entry).exists() and not link.is_symlink():
            link.symlink_to(home / entry)


def spark_home() -> Path:
    """Return the folder of the installed Spark. Raises SparkError."""
    from importlib.util import find_spec

    found = find_spec("pyspark")
    if found is None or not found.origin:
        raise SparkError("start Spark: this Python has no pyspark", "Run `make setup-spark`.")
    return Path(found.origin).parent


def java_home() -> Path:
    """Return the Java for Spark: that of this environment, else JAVA_HOME, else that on PATH. Raises SparkError."""
    own = Path(sys.prefix) / "jre"
    if (own / "bin" / "java").is_file():
        return own
    if given := os.environ.get("JAVA_HOME"):
        return Path(given)
    if program := shutil.which("java"):
        return Path(program).resolve().parents[1]
    raise SparkError(
        "start Spark: there is no Java here",
        "Run `make setup-spark`, or set JAVA_HOME to a Java 17 or later that has the module jdk.incubator.vector.",
    )

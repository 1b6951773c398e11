"""Root of the command line and its groups; the sibling modules add the commands."""

from __future__ import annotations

import typer

from rempart.cli import rendering

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Rempart: a sovereign MLOps distribution on Apache Airflow.",
)


@app.callback()
def log_to_terminal(context: typer.Context) -> None:
    context.with_resource(rendering.on_terminal())


config_app = typer.Typer(no_args_is_help=True, help="Look at rempart.yaml and the pipeline files.")
app.add_typer(config_app, name="config")
classification_app = typer.Typer(no_args_is_help=True, help="Judge what derived data counts as.")
app.add_typer(classification_app, name="classification")
policy_app = typer.Typer(no_args_is_help=True, help="What may be where, and what may leave this platform.")
app.add_typer(policy_app, name="policy")
ledger_app = typer.Typer(no_args_is_help=True, help="Evidence: look at it, export it, verify it.")
app.add_typer(ledger_app, name="ledger")
keys_app = typer.Typer(no_args_is_help=True, help="Keys of backups: who can open them, and how to destroy one.")
app.add_typer(keys_app, name="keys")
doctor_app = typer.Typer(no_args_is_help=True, help="Look at what jobs and data rely on, and say the remedy.")
app.add_typer(doctor_app, name="doctor")
quarantine_app = typer.Typer(no_args_is_help=True, help="Deliveries that are held back: accept one as it is.")
app.add_typer(quarantine_app, name="quarantine")
run_app = typer.Typer(no_args_is_help=True, help="Run a service in the foreground, as a supervisor does.")
app.add_typer(run_app, name="run")
new_app = typer.Typer(no_args_is_help=True, help="Draft new parts of the project.")
app.add_typer(new_app, name="new")
points_app = typer.Typer(no_args_is_help=True, help="Restore points: list them, say why each is kept, hold, prune.")
app.add_typer(points_app, name="points")
bundle_app = typer.Typer(no_args_is_help=True, help="What a bare machine needs to restore, kept at the backup site.")
app.add_typer(bundle_app, name="bundle")
drill_app = typer.Typer(invoke_without_command=True)
app.add_typer(drill_app, name="drill")
pitr_app = typer.Typer(no_args_is_help=True, help="Point-in-time recovery of PostgreSQL: to a chosen second.")
app.add_typer(pitr_app, name="pitr")
watch_app = typer.Typer(invoke_without_command=True)
app.add_typer(watch_app, name="watch")
users_app = typer.Typer(no_args_is_help=True, help="People who may use Airflow, each with a role.")
app.add_typer(users_app, name="users")

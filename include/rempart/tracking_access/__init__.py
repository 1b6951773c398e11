"""Restrict calls to MLflow's server: the list of calls, the checks of a job's calls, and the app that enforces them.

The app runs inside the server's process, around MLflow's basic-auth app, so MLflow's own port does not bypass it.
"""

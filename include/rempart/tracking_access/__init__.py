"""Who may make which call at MLflow's server: the list, the checks of a job's calls, and the app that enforces them.

It runs inside the server's process, around MLflow's basic-auth app, so MLflow's own port is no way past it.
"""

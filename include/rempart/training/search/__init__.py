"""The plan of a search for parameters: its space, what to try next, when a trial is hopeless; and its run in MLflow."""

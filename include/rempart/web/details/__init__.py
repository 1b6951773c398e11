"""Serve the pages that another page leads to, and forms that start a DAG run: one module per subject."""

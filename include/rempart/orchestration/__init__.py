"""Adapt flows to Airflow, without rules of its own."""

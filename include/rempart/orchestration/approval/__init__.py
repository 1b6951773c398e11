"""Airflow operators that ask a person about a candidate, and that start the DAG which asks."""

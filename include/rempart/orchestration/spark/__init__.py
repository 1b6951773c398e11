"""Spark jobs in pods of a pool: what makes, follows and ends them through Airflow's Kubernetes provider."""

"""Rempart: a sovereign MLOps distribution on Apache Airflow."""

__version__ = "0.1.0"

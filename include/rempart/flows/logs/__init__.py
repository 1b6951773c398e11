"""Logs of Airflow tasks that stay on a site."""

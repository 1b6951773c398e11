"""Extend Airflow's web server with the cockpit."""

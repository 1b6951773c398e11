"""Adapts flows to Airflow; holds no rule of its own."""

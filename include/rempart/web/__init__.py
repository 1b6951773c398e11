"""What Rempart adds to Airflow's web server."""

"""People and roles, in the tables of Airflow's auth manager and in PostgreSQL."""

"""What makes Airflow read DAG files again."""

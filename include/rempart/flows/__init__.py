"""One Airflow-free function per stage or operation: a DAG, the command line and a bench run the same code."""

"""One Airflow-free function per stage or journey: a DAG, the command line and a bench run the same code."""

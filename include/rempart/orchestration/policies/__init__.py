"""Cluster policies and the egress hook: what Airflow refuses when it parses a DAG or opens a socket."""

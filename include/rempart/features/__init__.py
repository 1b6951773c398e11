"""The feature store: Feast with a PostgreSQL registry, offline store and online store, built from the pipeline file."""

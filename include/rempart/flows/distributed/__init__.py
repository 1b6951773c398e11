"""Work of a Spark job, and what orders it: ingestion and training sets on several executors."""

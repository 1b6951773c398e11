"""Work of Spark jobs and the orders for it: ingestion, derivation and training sets on several executors."""

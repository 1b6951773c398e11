"""Training sets from the Parquet parts of a snapshot: DuckDB joins them behind Feast's interface, in a scratch folder.

docs/adr/0110-training-sets-from-parquet.md says why.
"""

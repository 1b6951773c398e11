"""The SQL of expressions: one text from a checked tree, for PostgreSQL and for DuckDB.

docs/adr/0114-expressions.md defines what each operator means.
"""

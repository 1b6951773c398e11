"""Judgement of derived queries: whether their rows on Spark are those of DuckDB to the last bit. Pure."""

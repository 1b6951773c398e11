"""The ingestion engine: reads deliveries as streams, types and judges rows in batches, finds repeated keys and writes
parts with DuckDB. No module here holds all rows as Python objects, and none knows a site.
"""

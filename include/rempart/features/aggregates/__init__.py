"""The SQL of trailing views: which rows count from when until when, and what they give together at each change.

PostgreSQL and DuckDB run the same text. docs/adr/0106-windows.md defines windows and delays.
"""

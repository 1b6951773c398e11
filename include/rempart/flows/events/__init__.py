"""Start ingestion by events: a file that lands, and the periods of a back-fill."""

"""The S3 adapter: requests, bulk transfers, uploads and sessions."""

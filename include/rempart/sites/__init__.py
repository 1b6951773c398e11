"""Access S3-compatible sites through one narrow interface."""

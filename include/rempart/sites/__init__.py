"""Sites: S3-compatible locations behind one narrow interface."""

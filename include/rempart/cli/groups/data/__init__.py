"""Commands about data and models: pipelines, their features and models, and rows in quarantine."""

"""Views of other pipelines: what the feature store holds of them, and of which snapshots."""

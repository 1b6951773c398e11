"""Feature views of other pipelines that a pipeline uses."""

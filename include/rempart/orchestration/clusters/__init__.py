"""The way to the clusters of pools, and the answers of their API servers, for all that makes pods there."""

"""Support a running job: checkpoints, progress, its other nodes, and its record at the site."""

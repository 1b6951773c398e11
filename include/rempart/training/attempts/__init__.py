"""What a job does while it runs: checkpoints, progress, its peers, and its record at the site."""

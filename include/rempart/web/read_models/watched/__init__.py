"""What the watch of champions found, as pages and metrics show it."""

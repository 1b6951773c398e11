"""Run the restore drill: restore into scratch space, check, report."""

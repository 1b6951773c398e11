"""Run the restore drill: restore into a sandbox, prove, clean up, report."""

"""Serve the pages of the cockpit: one module per page, and the shared parts of forms and posts."""

"""Restore points at a site: manifests, their chain, what they refer to, how long they are kept and locked."""

"""Commands that protect what is stored: sites and their replicas, backups, bundles and keys."""

"""Copy objects between sites, compare the sites, and repair replicas."""

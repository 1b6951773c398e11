"""Deliveries become snapshots: taken in, judged, accepted by a person, or taken in once more."""

"""The feature store and MLflow of the tests in memory."""

from __future__ import annotations

from rempart.models.removal import Registered


class Stores:
    """The feature store and MLflow, which are servers: integration tests have them."""

    def __init__(self) -> None:
        self.tables = ["hotel_bookings__rows"]
        self.models = Registered(("1", "2"), model=True, experiment=True)

    def drop(self, *given: object) -> int:
        self.tables = []
        return 1

    def forget(self, *given: object) -> None:
        self.models = Registered()

"""An interruption of a job at a step that a test chooses."""

from rempart.training.attempts.interruption import Interruption


class AtStep(Interruption):
    """Asked to end when the trainer has come to a step; `killed` leaves no time for a checkpoint."""

    def __init__(self, step: int) -> None:
        self._at = step
        super().__init__()

    @property
    def asked(self):
        return self.facts.get("step", 0) >= self._at

    @asked.setter
    def asked(self, _):
        pass

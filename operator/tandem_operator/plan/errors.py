"""What a spec can be wrong about that only the planner sees."""


class SpecError(ValueError):
    """A spec that no objects can be made from: `spec.field: problem; fix`."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"spec.{field}: {problem}; {fix}")
        self.field = field
        """Path of the field below spec."""
        self.problem = problem
        """What is wrong."""
        self.fix = fix
        """How to mend it."""

"""What a member says to a request that its state does not allow."""


class Conflict(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The member is not in a state in which it can do what was asked."""

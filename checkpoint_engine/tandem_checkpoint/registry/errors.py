"""What can go wrong with the registry."""


class RegistryError(Exception):
    """The registry cannot do what it was asked."""


class RegistryUnreachable(RegistryError):  # noqa: N818 - what has happened, not whose mistake it is
    """No answer within the deadline; trying again later can help."""


class RegistryRefused(RegistryError):  # noqa: N818 - what has happened, not whose mistake it is
    """The registry does not know us, or does not let us do this; the message says what to set."""


class Fenced(RegistryError):  # noqa: N818 - what has happened, not whose mistake it is
    """The guard of a transaction does not hold: somebody newer owns the key. Trying again cannot help."""


class LeaseLost(RegistryError):  # noqa: N818 - what has happened, not whose mistake it is
    """The lease has expired: its keys are gone, and this member must register anew."""


class CredentialsError(RegistryError):
    """The variables or files that say who we are to etcd are wrong: one line, with the variable and the fix."""

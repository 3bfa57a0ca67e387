"""What can go wrong with the registry."""


class RegistryError(Exception):
    """The registry cannot do what it was asked."""


class RegistryUnreachable(RegistryError):
    """No answer within the deadline; trying again later can help."""


class Fenced(RegistryError):
    """The guard of a transaction does not hold: somebody newer owns the key. Trying again cannot help."""


class LeaseLost(RegistryError):
    """The lease has expired: its keys are gone, and this member must register anew."""

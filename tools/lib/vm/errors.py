"""The error of building or starting a guest."""


class GuestFailure(Exception):
    """The guest could not be built or started. The text says what failed and what to do."""

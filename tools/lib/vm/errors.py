"""Why a guest could not be made or started."""


class GuestFailure(Exception):
    """The guest could not be built or started; the text says what failed and what to do."""

"""The exit status of the command meshfs, as mount(8) has it under "EXIT STATUS"."""

from typing import Final

#: Wrong usage, or no permission.
EXIT_USAGE: Final = 1
#: A mistake in the config or a key; every command of meshfs ends with this one then.
EXIT_CONFIG: Final = 2
EXIT_FAILURE: Final = 32

"""The exit statuses of the command meshfs, as mount(8) defines them under "EXIT STATUS"."""

from typing import Final

#: The command line is wrong.
EXIT_USAGE: Final = 1
#: The config or a key is wrong. Every command of meshfs has this status for such a mistake.
EXIT_CONFIG: Final = 2
#: The mesh cannot be mounted, or not be remounted as requested.
EXIT_FAILURE: Final = 32

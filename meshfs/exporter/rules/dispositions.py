"""CreateDisposition of CREATE: which dispositions overwrite what exists, and what the answer says was done to it."""

from typing import Final

from meshfs.smb.constants import CreateAction, CreateDisposition

_D = CreateDisposition
#: These overwrite what exists; SUPERSEDE does so as if it were deleted and made again.
OVERWRITES: Final = (_D.SUPERSEDE, _D.OVERWRITE, _D.OVERWRITE_IF)
_ACTIONS: Final = {
    _D.SUPERSEDE: CreateAction.SUPERSEDED,
    _D.OVERWRITE: CreateAction.OVERWRITTEN,
    _D.OVERWRITE_IF: CreateAction.OVERWRITTEN,
}


def action_on_existing(disposition: int) -> CreateAction:
    """The CreateAction of a CREATE that found what it names."""
    return _ACTIONS.get(_D(disposition), CreateAction.OPENED)

"""Says which dispositions of CREATE overwrite an existing file, and which CreateAction the answer gives."""

from typing import Final

from meshfs.smb.constants import CreateAction, CreateDisposition

_D = CreateDisposition
#: The dispositions that overwrite an existing file. SUPERSEDE does so as if the file were deleted and made again.
OVERWRITES: Final = (_D.SUPERSEDE, _D.OVERWRITE, _D.OVERWRITE_IF)
_ACTIONS: Final = {
    _D.SUPERSEDE: CreateAction.SUPERSEDED,
    _D.OVERWRITE: CreateAction.OVERWRITTEN,
    _D.OVERWRITE_IF: CreateAction.OVERWRITTEN,
}


def action_on_existing(disposition: int) -> CreateAction:
    """Return the CreateAction of a CREATE whose file existed."""
    return _ACTIONS.get(_D(disposition), CreateAction.OPENED)

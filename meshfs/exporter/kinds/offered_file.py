"""Finds the disk or the enclosure that a CREATE names in its share, as both kinds of files do."""

from typing import TypeVar

from meshfs.errors import StatusError
from meshfs.exporter.state.offer import Offer, Offered
from meshfs.smb.constants import CreateDisposition, CreateOptions, NtStatus
from meshfs.smb.info import has_wildcards
from meshfs.smb.messages import CreateRequest

T = TypeVar("T", bound=Offered)

_D = CreateDisposition


def find_offered(offer: Offer[T], node: str, body: CreateRequest, what: str) -> T:
    """Return what a CREATE of the node names. ``what`` says in the error text what it is, such as "disk".

    Raises StatusError if there is no such file, or if the CREATE does not ask for an existing file.
    """
    name = body.name.removesuffix("::$DATA")
    if has_wildcards(name) or ":" in name or "/" in name:
        raise StatusError(NtStatus.OBJECT_NAME_INVALID, f"{name!r} is not a possible name of a {what}")
    offered = offer.find(name, node)
    if offered is None:
        if "\\" in name:
            raise StatusError(NtStatus.OBJECT_PATH_NOT_FOUND, f"there is no folder of {name!r}")
        if body.disposition in (_D.OPEN, _D.OVERWRITE):
            raise StatusError(NtStatus.OBJECT_NAME_NOT_FOUND, f"there is no {what} {name!r}")
        raise StatusError(NtStatus.ACCESS_DENIED, f"there is no {what} {name!r}, and a CREATE makes none")
    if body.disposition == _D.CREATE:
        raise StatusError(NtStatus.OBJECT_NAME_COLLISION, f"{what} {name!r} exists already")
    if body.options & CreateOptions.DIRECTORY_FILE:
        raise StatusError(NtStatus.NOT_A_DIRECTORY, f"{name!r} is a {what}")
    return offered

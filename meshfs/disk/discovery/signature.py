"""Find out what a disk holds, as blkid recognises it: members of arrays, pools and groups, also unassembled ones.

    read_signature     asks blkid (util-linux) for one device
    member_of          what the signature makes of the device, if it belongs to something larger

A disk that is a member must not be offered to others by itself: its content belongs to the whole array. Whoever
assembles the array on this machine would write to the disk beside the mesh.
"""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from meshfs import limits
from meshfs.errors import DiskUnavailable

#: The TYPE that blkid reports (libblkid's names of superblocks), and what a device of that type belongs to.
MEMBERS: Final[Mapping[str, str]] = {
    "linux_raid_member": "an md array",
    "LVM2_member": "an LVM volume group",
    "LVM1_member": "an LVM volume group",
    "zfs_member": "a ZFS pool",
    "btrfs": "a btrfs file system",
    "bcache": "a bcache set",
    "bcachefs": "a bcachefs file system",
    "crypto_LUKS": "a LUKS container",
    "BitLocker": "a BitLocker container",
    "drbd": "a DRBD resource",
    "drbdmanage_control_volume": "a DRBD resource",
    "drbdproxy_datalog": "a DRBD resource",
    "ceph_bluestore": "a Ceph OSD",
    "stratis": "a Stratis pool",
    "vdo": "a VDO volume",
    "mpool": "an mpool",
    "oracleasm": "an Oracle ASM disk group",
    "DM_snapshot_cow": "a device-mapper snapshot",
    "DM_verity_hash": "a dm-verity device",
    "DM_integrity": "a dm-integrity device",
    "jbd": "a file system whose journal it is",
    "xfs_external_log": "a file system whose log it is",
    "swap": "swap space",
    "swsuspend": "swap space with a hibernated system",
    "VMFS_volume_member": "a VMFS volume",
    "mpath_member": "a multipath device",
}
#: The ends of the types of firmware RAID: ddf_raid_member, isw_raid_member and others.
_RAID_SUFFIX: Final = "_raid_member"
#: blkid's exit status if it recognises nothing, and if it finds several signatures that contradict each other.
_NOTHING: Final = 2
_AMBIVALENT: Final = 8


def read_signature(device: Path, start: int = 0, length: int = 0) -> dict[str, str]:
    """Return blkid's low-level properties of a device, such as TYPE and USAGE. If blkid recognises nothing, return {}.

    If ``length`` is not 0, blkid looks only at this many bytes from ``start`` on.

    Blocks for at most BLKID_TIMEOUT_S, unless blkid waits in the kernel for the device. Then nothing can end blkid, and
    this call blocks as long. Raises DiskUnavailable if blkid is missing, fails or does not end in time, because then
    nobody knows whether the device is in use. Several signatures that contradict each other are "ambivalent" as TYPE.
    """
    within = ["-O", str(start), "-S", str(length)] if length else []
    command = ["blkid", "-p", "-o", "export", *within, "--", str(device)]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=limits.BLKID_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError as error:
        raise DiskUnavailable("blkid is missing; install the package util-linux") from error
    except subprocess.TimeoutExpired as error:
        raise DiskUnavailable(f"blkid could not read {device} within {limits.BLKID_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise DiskUnavailable(f"blkid cannot be started: {error.strerror}") from error
    if done.returncode == _AMBIVALENT:
        return {"TYPE": "ambivalent"}
    if done.returncode not in (0, _NOTHING) or (done.returncode == _NOTHING and done.stderr):
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise DiskUnavailable(f"blkid cannot read {device}: {reason[-1] if reason else done.returncode}")
    return parse_export(done.stdout)


def parse_export(output: bytes) -> dict[str, str]:
    """Return the properties in the output of ``blkid -o export``: KEY=VALUE lines."""
    lines = (line.partition("=") for line in output.decode(errors="replace").splitlines())
    return {key: value for key, equals, value in lines if equals}


def member_of(signature: Mapping[str, str]) -> str | None:
    """Return what a device with this signature belongs to, or None if it belongs to nothing larger than itself."""
    kind = signature.get("TYPE", "")
    if kind == "ambivalent":
        return "something unknown, as it has several signatures that contradict each other (see wipefs)"
    if kind.endswith(_RAID_SUFFIX) and kind not in MEMBERS:
        return "a firmware RAID"
    return MEMBERS.get(kind)

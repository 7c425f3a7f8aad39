"""The guest's initramfs: busybox, the modules of the root's file systems, and the script that mounts the root.

The root is an overlay: the host's `/` over 9p at the bottom, the unpacked packages above it, and a tmpfs on top. The
host's part is mounted with cache=loose, which caches all data that were read once and never checks them. That is right
because the host's files do not change during a run, and each run boots with an empty cache. The folder of the run is
mounted without a cache, because both sides write to it.
"""

from collections.abc import Iterable
from typing import Final

from vm import cpio
from vm.modules import START_MODULES, module_name

#: The tags of the 9p shares.
TAG_ROOT: Final = "root"
TAG_PACKAGES: Final = "packages"
TAG_RUN: Final = "run"
#: The path of the run's folder in the guest.
RUN_FOLDER: Final = "/run/guest"
#: The script in the run's folder that is the guest's first process.
START_SCRIPT: Final = "start"

# trans=virtio transfers at most 512 KiB at a time.
_NINE_P: Final = "trans=virtio,version=9p2000.L,msize=512000"

_INIT: Final = f"""\
#!/bin/busybox sh
set -e
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module"; done </modules/order
mount -t 9p -o ro,{_NINE_P},cache=loose {TAG_ROOT} /host
mount -t 9p -o ro,{_NINE_P},cache=loose {TAG_PACKAGES} /packages
mount -t tmpfs -o size=80% tmpfs /layer
mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/packages:/host,upperdir=/layer/upper,workdir=/layer/work overlay /root
for place in proc sys dev; do mount --move /$place /root/$place; done
mount -t tmpfs -o size=80%,mode=755 tmpfs /root/run
mkdir -p /root{RUN_FOLDER}
mount -t 9p -o {_NINE_P},cache=none {TAG_RUN} /root{RUN_FOLDER}
exec switch_root /root /bin/sh {RUN_FOLDER}/{START_SCRIPT}
"""

# The first process in the root sets the guest up, runs the command, stores its exit status, and powers off.
_START: Final = f"""\
mkdir -p /dev/shm /dev/pts /run/tmp /run/lock
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t devpts devpts /dev/pts
chmod 1777 /run/tmp
mount -t debugfs debugfs /sys/kernel/debug
ln -sfn /proc/self/fd /dev/fd
echo 1 >/proc/sys/kernel/sysrq
modprobe -a {" ".join(START_MODULES)}
busybox ip link set lo up
busybox hostname guest
cd {RUN_FOLDER}
/bin/sh ./command >stdout 2>stderr </dev/null
echo $? >status.new
mv status.new status
sync
busybox poweroff -f
"""


def entries(busybox: bytes, modules: Iterable[tuple[str, bytes]]) -> list[cpio.Entry]:
    """Return the archive's entries. ``modules`` are pairs of path and bytes, in the order of loading."""
    loaded = [(f"{module_name(path)}.ko", data) for path, data in modules]
    folders = ("bin", "dev", "proc", "sys", "host", "packages", "layer", "root", "modules")
    return [
        *(cpio.folder(name) for name in folders),
        # The kernel opens the console for its first process before any file system is mounted.
        cpio.character_device("dev/console", 5, 1),
        cpio.file("bin/busybox", busybox, executable=True),
        cpio.symlink("bin/sh", "busybox"),
        *(cpio.file(f"modules/{name}", data) for name, data in loaded),
        cpio.file("modules/order", "".join(f"{name}\n" for name, _ in loaded).encode()),
        cpio.file("init", _INIT.encode(), executable=True),
    ]


def start_script() -> str:
    return _START

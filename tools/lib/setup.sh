# shellcheck shell=bash
# Debian packages and the virtual environment for tools/demo, tools/test, tools/bench, tools/guest and tools/package.
#
#   source tools/lib/setup.sh; meshfs_setup demo|test|bench|guest|package     sets $python to the interpreter's path
#
# It is safe to run this twice, even at the same time. A second run has nothing to install and takes well under 10 s.

# pyfuse3 is only available as source. It is built with gcc, the Python headers, pkg-config and libfuse3-dev.
packages_demo=(gcc python3-dev python3-venv pkg-config libfuse3-dev fuse3 fio)
packages_bench=("${packages_demo[@]}" nbdkit libnbd-bin qemu-utils qemu-system-common)
# tools/guest unpacks the packages inside the guest into .cache/guest, without installing them.
packages_guest=("${packages_demo[@]}" qemu-system-x86)
packages_package=(binutils gcc git python3-dev python3-venv pkg-config libfuse3-dev fuse3)
packages_test=("${packages_bench[@]}" "${packages_package[@]}" qemu-system-x86 attr autofs bcache-tools btrfs-progs
    cryptsetup-bin e2fsprogs fdisk gddrescue iproute2 lvm2 lz4 mmdebstrap nmap rsync samba samba-testsuite
    sg3-utils smbclient systemd tshark winbind zstd)

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

meshfs_setup() {
    local kind=$1
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
    mkdir -p "$root/.cache"
    exec 9>"$root/.cache/setup.lock"
    flock -n 9 || { say "another set-up is running; waiting for its end"; flock 9; }
    local -n wanted="packages_$kind"
    _debian_packages "${wanted[@]}"
    # The guest needs the environment of the tests, because it runs some of them.
    _virtual_environment "${kind/#guest/test}"
    flock -u 9
    exec 9>&-
    # Tests start thousands of processes. With its bytecode kept, each of them starts in about 0.2 s less.
    unset PYTHONDONTWRITEBYTECODE
    export PYTHONPYCACHEPREFIX="$root/.cache/bytecode"
    # No installed package contains the development kit (tools/meshlab).
    export PYTHONPATH="$root/tools${PYTHONPATH:+:$PYTHONPATH}"
}

_debian_packages() {
    local package missing=()
    for package in "$@"; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    [[ $EUID == 0 ]] || { say "these Debian packages are missing: ${missing[*]}; install them, or run this as root"; exit 1; }
    say "installing Debian packages: ${missing[*]}"
    local log="$root/.cache/apt.log" apt=(env DEBIAN_FRONTEND=noninteractive apt-get -q -y)
    if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null 9>&-; then
        tail -n 20 "$log" >&2
        say "apt-get failed; the whole log is $log"
        exit 1
    fi
}

_virtual_environment() {
    local venv="$root/.venv" base=${PYTHON:-/usr/bin/python3} extras="" log="$root/.cache/pip.log"
    [[ $1 == test ]] && extras="[test]"
    [[ $1 == bench ]] && extras="[bench]"
    [[ $1 == package ]] && extras="[package]"
    python="$venv/bin/python"
    "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "$base is older than Python 3.11; set PYTHON to a newer one"; exit 1; }
    if ! "$python" -c 'pass' 2>/dev/null; then
        say "making the virtual environment .venv"
        "$base" -m venv --clear "$venv"
    fi
    # There is one stamp per set of extras. Packages are installed again only when pyproject.toml has changed.
    local stamp="$venv/meshfs-$1.stamp" want
    want=$(sha256sum <"$root/pyproject.toml")
    [[ -f $stamp && $(<"$stamp") == "$want" ]] && return 0
    say "installing Python packages into .venv"
    if ! "$python" -m pip install --disable-pip-version-check --no-input -q -e "$root$extras" >"$log" 2>&1 </dev/null 9>&-; then
        tail -n 20 "$log" >&2
        say "pip failed; the whole log is $log"
        exit 1
    fi
    printf '%s\n' "$want" >"$stamp"
}

"""The mount's command line."""

import pytest

from meshfs.model import IoClass
from meshfs.mount.options import UsageError, kernel_options, parse_arguments


def test_everything_at_once() -> None:
    options = parse_arguments(
        "/usr/bin/meshfs",
        ["c.toml", "/mesh", "-f", "-o", "node=n1,class=system,cache=none", "-oio_timeout=2.5,ro,log=/a\\,b"],
    )
    assert (options.config, options.mountpoint, options.node) == ("c.toml", "/mesh", "n1")
    assert options.foreground
    assert options.io_class is IoClass.SYSTEM
    assert not options.page_cache
    assert options.io_timeout_s == 2.5
    assert options.log_path == "/a,b"
    assert options.kernel == ("ro",)


def test_what_is_said_of_mount_itself_is_dropped() -> None:
    options = parse_arguments(
        "meshfs",
        ["c", "/m", "-o", "rw,dev,suid,user,noauto,nofail,_netdev,x-systemd.automount,defaults,comment=a,,"],
    )
    assert options.kernel == ("rw",)
    assert kernel_options(options, "/c", root=False) == {"rw", "fsname=/c", "subtype=meshfs", "default_permissions"}
    assert "allow_other" in kernel_options(options, "/c", root=True)


def test_mounts_helper_has_flags_of_its_own() -> None:
    options = parse_arguments("/sbin/mount.meshfs", ["c", "/m", "-sn", "-v", "-t", "meshfs", "-o", "node=n1"])
    assert not options.foreground
    assert not options.fake
    assert parse_arguments("mount.meshfs", ["c", "/m", "-f"]).fake
    with pytest.raises(UsageError, match="-x"):
        parse_arguments("mount.meshfs", ["c", "/m", "-x"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["c"], "expected CONFIG and MOUNTPOINT"),
        ([], "expected CONFIG and MOUNTPOINT"),
        (["c", "/m", "/n"], "expected CONFIG and MOUNTPOINT"),
        (["c", "/m", "-o"], "-o needs a value"),
        (["c", "/m", "-x"], "'-x'"),
        (["c", "/m", "-o", "ro,nodes=n1"], "'nodes=n1'"),
        (["c", "/m", "-o", "node="], "'node' has no value"),
        (["c", "/m", "-o", "node"], "'node'"),
        (["c", "/m", "-o", "class=fast"], "app or system"),
        (["c", "/m", "-o", "cache=maybe"], "page or none"),
        (["c", "/m", "-o", "io_timeout=soon"], "seconds from"),
        (["c", "/m", "-o", "io_timeout=0"], "seconds from"),
        (["c", "/m", "-o", "io_timeout=nan"], "seconds from"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_arguments("meshfs", arguments)


def test_a_source_with_a_comma_stays_one_option() -> None:
    options = parse_arguments("meshfs", ["c", "/m"])
    assert "fsname=/a\\,b\\\\c\u00e4\udcff" in kernel_options(options, "/a,b\\c\u00e4\udcff", root=True)

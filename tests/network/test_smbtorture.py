"""Samba's smbtorture at the exporter's scratch share: the tests that pass, and why the others of their families cannot.

Every test of the families below is in exactly one list. Of the families up to smb2.compound_async, Debian's smbd 4.17
with a minimum of SMB 3 passes what passes here. The exceptions are smb2.rw.invalid and smb2.compound.interim2. With
`server min protocol = SMB3`, which is 3.1.1, there are six more: binds in which a connection speaks 3.0. Of the tests
that do not apply, smbd passes the three that are marked.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from meshfs.limits import KIB, MIB
from meshlab.cluster.cluster import LocalCluster, tracebacks
from support.commands import run

pytestmark = pytest.mark.peers

SCRATCH_BYTES: Final = 64 * MIB
# The slowest test takes 3 s.
TIMEOUT_S: Final = 60.0
#: How long a test goes on that only repeats itself: smb2.secleak (20 s by default), and the benches (10 s).
REPEATING_S: Final = 3

FAMILIES: Final = (
    "smb2.connect", "smb2.read", "smb2.rw", "smb2.credits", "smb2.session", "smb2.session-require-signing",
    "smb2.multichannel.generic", "smb2.ioctl.network_interface_info", "smb2.compound", "smb2.compound_find",
    "smb2.compound_async", "smb2.lock", "smb2.notify", "smb2.create", "smb2.rename", "smb2.sharemode", "smb2.dir",
    "smb2.getinfo", "smb2.fileid", "smb2.deny", "smb2.timestamps", "smb2.delete-on-close-perms", "smb2.mkdir",
    "smb2.tcon",
)  # fmt: skip


def _tests(**families: str) -> tuple[str, ...]:
    return tuple(
        f"smb2.{family.replace('__', '-')}.{test}" for family, tests in families.items() for test in tests.split()
    )


PASSES: Final = _tests(
    read="eof position dir access",
    rw="rw1 rw2 invalid",
    credits="session_setup_credits_granted single_req_credits_granted skipped_mid",
    session="""
        reauth1 two_logoff signing-hmac-sha-256 signing-aes-128-cmac signing-aes-128-gmac
        encryption-aes-128-ccm encryption-aes-128-gcm encryption-aes-256-ccm encryption-aes-256-gcm
    """,
    session__require__signing="bug15397",
    compound="""
        related1 related2 related3 related5 related6 related8 related9 unrelated1 invalid1 invalid2 invalid3 invalid4
        interim1 interim2 compound-break create-write-close
    """,
    compound_find="compound_find_related compound_find_unrelated compound_find_close",
    compound_async="flush_close flush_flush",
)

#: These ask for files, directories, locks, share access, renames, listings and changes, which the exporter has.
FILES: Final = (
    *_tests(
        lock="""
            valid-request rw-shared rw-exclusive auto-unlock lock async cancel cancel-logoff cancel-tdis errorcode
            zerobytelength zerobyteread unlock multiple-unlock stacking contend context range overlap truncate
            replay_smb3_specification_multi
        """,
        create="""
            brlocked multi delete leading-slash impersonation mkdir-dup dosattr_tmp_dir open dir-alloc-size
            bench-path-contention-shared
        """,
        rename="""
            simple simple_nodelete no_sharing share_delete_and_delete_access no_share_delete_but_delete_access
            share_delete_no_delete_access no_share_delete_no_delete_access msword rename_dir_openfile rename_dir_bench
            close-full-information
        """,
        sharemode="sharemode-access access-sharemode bug14375",
        dir="find fixed one many modify sorted",
        notify="""
            valid-req dir file basedir tree overflow double mask-change handle-permissions rmdir1 rmdir2 rmdir3 rmdir4
            tdis tdis1 close logoff tcon tcp session-reconnect invalid-reauth
        """,
        fileid="unique unique-dir",
        getinfo="fsinfo granted qfs_buffercheck qsec_buffercheck",
        delete__on__close__perms="READONLY BUG14427",
        deny="deny1 deny2",
        timestamps="""
            time_t_15032385535 time_t_10000000000 time_t_4294967295 time_t_1 time_t_0 time_t_-1 time_t_-2 time_t_1968
            freeze-thaw delayed-1write
        """,
    ),
    "smb2.mkdir",
    "smb2.tcon",
)

#: Most of these families are about what the exporter lacks: level II oplocks, leases, durable opens, descriptors.
ALSO_PASSES: Final = (
    *_tests(
        oplock="""
            exclusive1 exclusive3 exclusive4 exclusive6 batch4 batch8 batch15 batch19 batch21 batch25 brl2 levelii501
            statopen1 doc
        """,
        replay="channel-sequence replay-commands replay-regular replay7",
    ),
    "smb2.check-sharemode",
    "smb2.openattr",
    "smb2.winattr",
    "smb2.sdread",
    "smb2.async_dosmode",
    "smb2.secleak",
)

#: These have sessions of several connections, and refusals that a client must believe without a signature.
CHANNELS: Final = (
    "smb2.connect",
    "smb2.multichannel.generic.num_channels",
    *_tests(
        session="""
            reconnect1 reconnect2 reauth6 bind1 bind2 bind_invalid_auth bind_different_user
            bind_negative_smb3to3s bind_negative_smb3to3d bind_negative_smb3encGtoCs bind_negative_smb3encGtoCd
            bind_negative_smb3signCtoHs bind_negative_smb3signCtoGs bind_negative_smb3signCtoGd
            bind_negative_smb3signHtoCs bind_negative_smb3signHtoGs bind_negative_smb3signHtoGd
            bind_negative_smb3signGtoCs bind_negative_smb3signGtoCd bind_negative_smb3signGtoHs
            bind_negative_smb3signGtoHd bind_negative_smb3sneGtoCs bind_negative_smb3sneGtoCd
            bind_negative_smb3sneGtoHs bind_negative_smb3sneGtoHd bind_negative_smb3sneCtoGs
            bind_negative_smb3sneCtoGd bind_negative_smb3sneHtoGs bind_negative_smb3sneHtoGd
            bind_negative_smb3signGtoC30s bind_negative_smb3signGtoC30d
        """,
    ),
)
#: This asks for the network interfaces of an exporter.
INTERFACES: Final = ("smb2.ioctl.network_interface_info", "smb2.multichannel.generic.interface_info")

_SMB_2: Final = "speaks a dialect below 3.0 on one of its connections, which is refused"
_ANONYMOUS: Final = "logs in again as anonymous, which is refused"
_KERBEROS: Final = "a ticket that expires: skips itself without Kerberos, which is not configured"
_DESCRIPTORS: Final = "sets a security descriptor; rights come from the cluster's config. smbd fails it, too"
_NO_KEY: Final = "wants an error from a bind with another signing algorithm that nobody can sign; smbd fails it, too"
_GMAC_BY_DEFAULT: Final = (
    "skips itself where an initiator that offers AES-CMAC and several channels does not get AES-GMAC, and cannot do"
    " without AES-CMAC, as its other connection speaks 3.0 (smbd passes)"
)
_STREAMS: Final = "makes an alternate data stream; files have one"
_ATTRIBUTES: Final = "makes extended attributes, which files do not have"
_DURABLE: Final = "wants a durable open, which is not granted"
_LATE: Final = "wants the time of a write to show some seconds late; here it shows at once"
_SKIPS: Final = "skips itself"
_DELETE_ON_CLOSE: Final = ("CREATE", "CREATE Existing", "CREATE_IF", "CREATE_IF Existing", "OVERWRITE_IF",
                           "OVERWRITE_IF Existing", "FIND_and_set_DOC")  # fmt: skip
#: These pass, and take longer than TIMEOUT_S on a busy machine.
TOO_LONG: Final[Mapping[str, str]] = {
    "smb2.notify.mask": "waits 0.2 s for each of 32 filters and 13 changes",
    "smb2.dir.large-files": "makes 2000 files, and looks at each in several ways",
}
INAPPLICABLE: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        _tests(create="acldir aclfile nulldacl"), "makes a file with a security descriptor, which none has"
    ),
    **dict.fromkeys(
        (f"smb2.delete-on-close-perms.{name}" for name in _DELETE_ON_CLOSE),
        "wants a security descriptor to keep it from deleting; rights come from the cluster's config",
    ),
    **dict.fromkeys(
        _tests(
            fileid="fileid fileid-dir",
            getinfo="complex normalized",
            create="gentest",
            timestamps="test_close_not_attrib",
        ),
        _STREAMS,
    ),
    **dict.fromkeys(_tests(getinfo="getinfo_access qfile_buffercheck"), _ATTRIBUTES),
    **dict.fromkeys(
        _tests(
            timestamps="""
        delayed-2write delayed-write-vs-flush delayed-write-vs-setbasic delayed-write-vs-seteof
    """
        ),
        _LATE,
    ),
    "smb2.create.blob": "wants room kept that is more than a file has; the share is bounded as a whole",
    "smb2.create.quota-fake-file": "opens the file in which NTFS keeps quotas; none are kept",
    "smb2.dir.file-index": f"{_SKIPS} where listings have no file index, as Windows' have none",
    "smb2.lock.replay_broken_windows": f"{_SKIPS} at a server of several channels, whose LOCKs are all judged",
    "smb2.lock.replay_smb3_specification_durable": _DURABLE,
    "smb2.lock.rw-none": f"{_SKIPS} except at old Windows, which takes a lock without flags",
    "smb2.lock.ctdb-delrec-deadlock": f"{_SKIPS} without a cluster of Samba's",
    "smb2.notify.rec": "wants no attributes told of that a rename changed, which smb2.notify.mask-change wants",
    "smb2.read.bug14607": "asks for an FSCTL of Samba's own self-test and skips itself",
    "smb2.compound.related4": _DESCRIPTORS,
    "smb2.compound.related7": _DESCRIPTORS,
    "smb2.compound.compound-padding": "makes an alternate data stream; files have one. smbd as installed fails it, too",
    "smb2.session.reauth2": f"{_ANONYMOUS} (smbd passes)",
    "smb2.session.reauth3": f"{_ANONYMOUS} (smbd passes)",
    "smb2.session.reauth4": f"{_ANONYMOUS}. smbd fails it, too",
    "smb2.session.reauth5": f"{_ANONYMOUS}. smbd fails it, too",
    "smb2.session.ntlmssp_bug14932": "wants INVALID_PARAMETER for a malformed NTLMv2 response; every login that"
    " fails is answered with LOGON_FAILURE, so that it tells nothing (smbd passes)",
    **dict.fromkeys(_tests(session="expire1n expire1s expire1e expire2s expire2e expire_disconnect"), _KERBEROS),
    **dict.fromkeys(_tests(session="bind_negative_smb3signCtoHd bind_negative_smb3signHtoCd"), _NO_KEY),
    **dict.fromkeys(_tests(session="bind_negative_smb3signC30toGs bind_negative_smb3signC30toGd"), _GMAC_BY_DEFAULT),
    **dict.fromkeys(
        _tests(
            session="""
                bind_negative_smb202 bind_negative_smb210s bind_negative_smb210d
                bind_negative_smb2to3s bind_negative_smb2to3d bind_negative_smb3to2s bind_negative_smb3to2d
                bind_negative_smb3signH2XtoGs bind_negative_smb3signH2XtoGd
                bind_negative_smb3signGtoH2Xs bind_negative_smb3signGtoH2Xd
            """
        ),
        _SMB_2,
    ),
}


#: These begin with a connection of Samba's defaults, and skip themselves if it does not sign with AES-GMAC. An
#: initiator that may use several channels gets that algorithm only if it offers no other. With another algorithm,
#: Samba's CANCEL names no message before the interim reply is there, and those of smb2.notify do not wait for that
#: reply.
_WANTS_GMAC: Final = re.compile(r"\.notify\.|\.session\.(signing-|encryption-|bind_negative_smb3(sign|sne))")
_GMAC_ALONE: Final = ("--option=client smb3 signing algorithms=aes-128-gmac",)


@dataclass(frozen=True)
class Target:
    """A scratch share, and the options by which smbtorture finds it and logs in."""

    unc: str
    options: tuple[str, ...]

    def outcome(self, test: str, folder: Path) -> str:
        """Return what smbtorture printed. Its first word is success, failure, error or skip."""
        options = (*self.options, *(_GMAC_ALONE if _WANTS_GMAC.search(test) else ()))
        output = run("smbtorture", self.unc, *options, test, status=None, timeout_s=TIMEOUT_S, cwd=folder)
        found = re.search(r"^(success|failure|error|skip): ", output, re.MULTILINE)
        return output[found.start() :] if found else output


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with LocalCluster(tmp_path_factory.mktemp("torture")) as cluster:
        node = cluster.add_node("n1", [cluster.image("disk0", 64 * KIB)])
        node.settings["scratch_size_bytes"] = SCRATCH_BYTES
        cluster.add_node("n2")
        cluster.add_node("n3")
        cluster.write()
        cluster.keygen()
        cluster.start_exporter("n1")
        passwords = [
            cluster.meshctl("password", str(cluster.config), "--node", name, "--to", "n1").stdout.strip()
            for name in ("n2", "n3")
        ]
        yield Target(
            f"//{node.address}/scratch",
            ("-p", str(node.port), "-U", f"n2%{passwords[0]}", "--option=torture:user2name=n3",
             f"--option=torture:user2password={passwords[1]}", f"--option=torture:timelimit={REPEATING_S}"),
        )  # fmt: skip
        assert list(tracebacks(cluster.logs)) == []


def in_a_family(test: str) -> bool:
    return any(test == family or test.startswith(f"{family}.") for family in FAMILIES)


def test_every_test_of_the_families_is_in_one_list() -> None:
    # smbtorture names each test twice at the end, for example smb2.read.eof.eof.
    offered = {line.strip().rpartition(".")[0] for line in run("smbtorture", "--list").splitlines()}
    listed = [*PASSES, *CHANNELS, *INTERFACES, *FILES, *TOO_LONG, *INAPPLICABLE]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {test for test in offered if in_a_family(test)}
    assert not set(ALSO_PASSES) & set(listed)


@pytest.mark.parametrize("test", [*PASSES, *CHANNELS, *INTERFACES, *FILES, *ALSO_PASSES])
def test_smbtorture(target: Target, tmp_path: Path, test: str) -> None:
    output = target.outcome(test, tmp_path)
    assert output.startswith("success: "), output

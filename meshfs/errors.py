"""The errors of meshfs, classed by whose fault they are.

Each boundary translates the errors of the floor below into its own, and keeps the cause (``raise ... from``).

error                  whose fault         what happened
ConfigError            administrator       a mistake in the config; the text gives file, line, key and what was expected
KeyFileError           administrator       a key file is missing, malformed or readable by others
LocalProtocolError     meshfs (a bug)      a caller broke the rules of a protocol object
RemoteProtocolError    peer                the peer broke the protocol; the connection ends
ForgedMessage          network, most       a message is not as its sender made it; the connection ends
                       likely
RepeatedNonce          network             somebody on the way sent an encrypted message again; the connection ends
AuthenticationError    peer                the peer is not who it claims to be, or is not a node of the cluster
MountFailed            machine             the file system could not be mounted
ChannelLost            nobody              the connection ended; requests in flight may be sent again
DiskUnavailable        machine             a configured disk cannot be opened now; it may be later
EnclosurePageError     enclosure           a page of an enclosure is malformed, or belongs to another configuration
OutdatedPageError      nobody              a page belongs to another configuration of the enclosure than the one that is
                                           known; after both are read again, they match
TookTooLong            machine             a blocking call of the system did not end within its bound
StatusError            depends             the peer answered a request with an NTSTATUS that is an error
"""


class MeshfsError(Exception):
    """This is the root of every error that meshfs raises on purpose."""


class ConfigError(MeshfsError):
    """The config has a mistake. The text gives its file, line and key, and says what was expected."""


class KeyFileError(ConfigError):
    """A key file is missing, malformed, or readable by others."""


class DiskUnavailable(MeshfsError):
    """A configured disk cannot be opened now: it is missing, empty, in use or broken."""


class EnclosurePageError(MeshfsError):
    """A page of an enclosure is malformed, or belongs to another configuration than the one that is known."""


class OutdatedPageError(EnclosurePageError):
    """A page of an enclosure has another generation than the configuration that is known."""


class TookTooLong(MeshfsError):
    """A blocking call of the system did not end within its bound. Its thread still waits for the call."""


class ProtocolError(MeshfsError):
    """This is the root of both protocol errors."""


class LocalProtocolError(ProtocolError):
    """A caller asked a protocol object for something that its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that the protocol does not allow."""

    #: The exporter counts the error under this name.
    counter = "protocol_errors"


class ForgedMessage(RemoteProtocolError):
    """The signature or the encryption of a message is wrong: its sender has no key, or it was changed on its way."""

    counter = "bad_signatures"


class RepeatedNonce(RemoteProtocolError):
    """An authentic encrypted message came a second time, or on another channel than it was sent on."""

    counter = "nonces_repeated"


class AuthenticationError(MeshfsError):
    """A login failed. The text is for the log only, because it would help an attacker."""


class ChannelLost(MeshfsError):
    """The channel ended with the request unanswered."""


class MountFailed(MeshfsError):
    """The file system could not be mounted. libfuse may have written the reason to stderr."""


class StatusError(MeshfsError):
    """The peer answered with an error status."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"{what}: NTSTATUS 0x{status:08x}")
        self.status = status

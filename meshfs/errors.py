"""Errors by whose fault they are; translated at each boundary, the cause kept.

ConfigError            the administrator's: file, key, line, what was expected (exit status 2)
KeyFileError           the administrator's: a key file is missing, malformed or readable by others
LocalProtocolError     ours: a caller broke this module's rules (a bug)
RemoteProtocolError    the peer's: it broke the protocol; the connection ends
ForgedMessage          somebody's on the way, most likely: a message is not as its sender made it; the connection ends
RepeatedNonce          somebody's between the ends: an encrypted message was sent again
AuthenticationError    the peer's: it is not who it says, or not of the cluster
MountFailed            the machine's: the file system could not be mounted
ChannelLost            nobody's: the connection ended; what was in flight may go again
DiskUnavailable        the machine's: a configured disk cannot be opened now, and may be later
TookTooLong            a blocking call of the system did not end within its bound
StatusError            an SMB request was answered with an NTSTATUS that is an error
"""


class MeshfsError(Exception):
    """The root of every error meshfs raises on purpose."""


class ConfigError(MeshfsError):
    """A mistake in the configuration."""


class KeyFileError(ConfigError):
    """A key file is missing, malformed, or readable by others."""


class DiskUnavailable(MeshfsError):
    """A configured disk cannot be opened now: it is missing, empty, in use or broken."""


class TookTooLong(MeshfsError):
    """A blocking call of the system did not end within its bound; its thread is left behind."""


class ProtocolError(MeshfsError):
    """The root of both protocol errors."""


class LocalProtocolError(ProtocolError):
    """A caller asked a protocol object for what its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow."""

    #: The name by which an exporter counts it.
    counter = "protocol_errors"


class ForgedMessage(RemoteProtocolError):
    """A message was not made with its session's key, or was changed on its way: its signature or seal is wrong."""

    counter = "bad_signatures"


class RepeatedNonce(RemoteProtocolError):
    """An authentic encrypted message came a second time, or on another channel than it was sent on."""

    counter = "nonces_repeated"


class AuthenticationError(MeshfsError):
    """A login failed; the text is for the log, never for the peer."""


class ChannelLost(MeshfsError):
    """The channel ended with the request unanswered."""


class MountFailed(MeshfsError):
    """The file system could not be mounted; libfuse may have written why to stderr."""


class StatusError(MeshfsError):
    """The peer answered with an error status."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(f"{what}: NTSTATUS 0x{status:08x}")
        self.status = status

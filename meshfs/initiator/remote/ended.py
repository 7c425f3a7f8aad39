"""Count the bytes and faults of channels that have ended, for the status documents."""

from meshfs.initiator.channel.channel import Channel


class EndedChannels:
    """Adds up the counts of channels that have ended."""

    __slots__ = ("bad_signatures", "nonces_repeated", "received_bytes", "sent_bytes")

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        #: The number of messages that were forged, or changed on their way.
        self.bad_signatures = 0
        #: The number of encrypted messages that came a second time, or on another channel than they were sent on.
        self.nonces_repeated = 0

    def add(self, channel: Channel) -> None:
        """Add the counts of a channel, which are final by now."""
        self.sent_bytes += channel.sent_bytes
        self.received_bytes += channel.received_bytes
        self.bad_signatures += channel.bad_signatures
        self.nonces_repeated += channel.nonces_repeated

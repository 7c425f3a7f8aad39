"""Connections that carry bytes between the two ends, and the sockets that wait for them.

    base        what both ends may expect of a connection, and of the whole messages that it brings
    stream      a connection over TCP or a Unix socket
    inlet       the receive step of both wings, over a stream
    framing     how length prefixes tell messages apart, and which memory they get
    out_queue   what waits to be sent
    listening   listening sockets

Of SMB only the length prefix of its TCP transport is known here (MS-SMB2 2.1).
"""

"""Transports, which carry whole messages between the two ends, and the sockets that a node listens on.

    base          what both wings expect of a transport
    byte_stream   what the parts below need of a stream of bytes
    inlet         the receiving side over a stream
    out_queue     the sending side over a stream
    framing       the length in front of each message, and the memory that messages are received into
    stream        the transport over TCP and Unix sockets
    listening     listening sockets

Nothing here knows a message of SMB, and nothing outside knows the length prefix of direct TCP (MS-SMB2 2.1).
"""

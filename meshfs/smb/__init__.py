"""The protocol: SMB 3.1.1 as MS-SMB2 describes it, for both ends. Pure: bytes in, bytes out, no sockets and no clock.

connection.py turns frames into messages and back, with credits, signing and sealing. messages/ has the bodies of the
commands, wire.py the headers and the bodies of READ and WRITE, and info/ the information classes of MS-FSCC. states.py
has the tables of states, and auth.py is the only module that knows pyspnego.
"""

"""The protocol: SMB 3.0 to 3.1.1 as MS-SMB2 describes it, for both ends. Pure: bytes in, bytes out, no sockets.

connection.py turns frames into messages and back, with signing and sealing. credits.py counts message ids. messages/
has the bodies of the commands. wire.py has the header, and the bodies of READ and WRITE. info/ has the information
classes of MS-FSCC. states.py has the tables of states. auth.py is the only module that knows pyspnego.
"""

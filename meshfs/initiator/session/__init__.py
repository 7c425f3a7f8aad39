"""The initiator's second floor: one SMB session with an exporter, over one channel or several.

negotiation, session_setup, login and bind make a channel one of a session. `Session` (session.py) chooses between its
channels (balance.py), and requests.py says how the opens and disks of a share are asked for.
"""

"""The initiator's second floor is one SMB session with an exporter, over one channel or several.

negotiation, session_setup, login and bind make a connection a channel of a session. `InitiatorSession` (session.py)
chooses between its channels (balance.py), and commands.py has the requests for opens and disks of a share.
"""

"""The initiator's lowest floor is one connection to an exporter, which carries requests and replies.

A channel knows nothing of the session that it belongs to, of disks, or of paths. `Channel` (channel.py) puts the parts
together. The modules credits, load, delay, silence and forged are pure rules with a theory in their headers.
"""

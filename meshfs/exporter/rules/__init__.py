"""The exporter's rules: access, locks, oplocks, share modes, quotas and turns. Values in, values out.

Nothing here knows a request, a connection or an open of a certain kind, and nothing reads a clock or a socket. So each
rule can be tested against a model of its own.
"""

"""The exporter's rules decide about access, locks, oplocks, share modes, quotas and turns. Values go in and come out.

No rule knows a request, a connection or an open of a certain kind. No rule reads a clock or a socket. Therefore each
rule can be tested against a model of its own.
"""

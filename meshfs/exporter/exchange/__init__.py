"""Carries out one exchange, which is a request and its reply.

A handler gets a `Request` of request.py, reads the message from it, and replies through it. compound.py chains the
requests of one message. waiting.py keeps asynchronous requests, which are answered later (MS-SMB2 3.3.4.2).
"""

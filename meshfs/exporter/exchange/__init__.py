"""One exchange: a request and its reply.

request.py is what a handler gets: it reads the request there and replies through it. compound.py chains the requests of
one message, and waiting.py keeps requests that are answered later, as asynchronous ones (MS-SMB2 3.3.4.2).
"""

"""The exporter offers the disks of one node to the other nodes over SMB 3.

From top to bottom:

    serving    frames in and out: listener, links, and the engine that handles frames
    commands   the gate that every request passes, and a module for each command
    kinds      the kinds of opens, each of which answers for itself
    exchange   one request, a compound of several, and requests that are answered later
    state      what the exporter, its connections, sessions, trees and opens remember
    rules      decisions: values go in and come out

A lower floor never names a higher one, not even as a type.
"""

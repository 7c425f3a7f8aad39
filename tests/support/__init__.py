"""The helpers that tests of several folders share."""

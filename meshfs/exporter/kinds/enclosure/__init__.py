"""Defines the open of an enclosure's file. `create.py` makes the open, and `root.py` lists the enclosures."""

"""The cluster: its config file, and the keys by which its nodes know each other.

config_text.py reads TOML and reports each mistake with its line. config.py, config_nodes.py and config_scheduler.py
define the meaning of the keys. config_watch.py reads the file again when it changes. config_changes.py compares the
file with the config in force. keys.py derives the passwords with which two nodes log in to each other.
"""

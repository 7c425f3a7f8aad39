"""The cluster: its config file, and the keys by which its nodes know each other.

config_text.py reads TOML so that each mistake has its line, config.py and config_scheduler.py say what the keys mean,
and config_watch.py reads the file again when it changes. keys.py derives what two nodes log in with.
"""

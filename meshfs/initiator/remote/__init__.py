"""The initiator's third floor is one remote exporter, over all paths that lead to it.

`RemoteExporter` (exporter.py) has the exporter's state, session and disks. Below it, paths.py and path_keeper.py carry
out what plan.py and replan.py decide, joining.py makes channels part of the session, and news.py and disk_questions.py
ask the exporter. All of them follow the rules in states.py and failfast.py. status.py stands on top, and describes them
in the status document.
"""

"""The initiator's third floor: one remote exporter, over all paths that lead to it.

`RemoteExporter` (exporter.py) has its state, its session and its disks. Below it paths.py and path_keeper.py carry out
what plan.py and replan.py decide, joining.py makes channels part of the session, and news.py and disk_questions.py ask
the exporter. states.py and failfast.py are rules that all of them go by. status.py stands on top: it tells of them.
"""

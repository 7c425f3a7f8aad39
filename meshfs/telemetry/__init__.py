"""What a process tells of itself: documents, metrics and problems.

documents.py says how the status documents look that cross from one process to another. prometheus.py is the only
module that loads the Prometheus library, and metrics_place.py loads it only for those who want metrics. problems.py
derives from a document what an administrator has to look after. Nothing here knows a disk or a connection.
"""

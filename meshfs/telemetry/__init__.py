"""The information that a process publishes about itself: documents, metrics and problems.

documents.py and exporter_documents.py define the status documents that one process writes and another reads.
prometheus.py is the only module that loads the Prometheus library; metrics_place.py loads it only if metrics are
configured. problems.py derives the problems in a document that an administrator has to solve. This package does not
depend on disks or connections.
"""

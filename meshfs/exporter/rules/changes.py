"""Names the actions of FILE_NOTIFY_INFORMATION, which say what happened to a file (MS-FSCC 2.7.1)."""

import enum


class NotifyAction(enum.IntEnum):
    """Names the actions that a change notification tells (MS-FSCC 2.7.1)."""

    ADDED = 1
    REMOVED = 2
    MODIFIED = 3
    RENAMED_OLD_NAME = 4
    RENAMED_NEW_NAME = 5

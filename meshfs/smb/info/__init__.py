"""The information classes of MS-FSCC for a share: its files, its directories and its volume. Pure.

    QUERY_INFO        `query_file`, `query_filesystem`, `query_security`
    SET_INFO          `parse_change`
    QUERY_DIRECTORY   `NamePattern`, `DirectoryPacker`

The functions for QUERY_INFO and SET_INFO also return the NTSTATUS of the response, so the caller decides nothing. The
sections of MS-FSCC are numbered as in its version 60.0 of November 2025.
"""

from meshfs.smb.info.change import (
    Change,
    SetAllocation,
    SetBasic,
    SetDisposition,
    SetEndOfFile,
    SetMode,
    SetPosition,
    SetRename,
    parse_change,
)
from meshfs.smb.info.directory import DirectoryPacker, dot_entries, is_directory_class
from meshfs.smb.info.facts import FileFacts, FilesystemFacts, OpenFacts, Output
from meshfs.smb.info.file import FileInfoClass, query_file
from meshfs.smb.info.filesystem import FsInfoClass, query_filesystem
from meshfs.smb.info.mode import changed_mode, mode_of
from meshfs.smb.info.names import NamePattern, has_wildcards, name_matches, short_name
from meshfs.smb.info.security import pack_descriptor, query_security

__all__ = [
    "Change",
    "DirectoryPacker",
    "FileFacts",
    "FileInfoClass",
    "FilesystemFacts",
    "FsInfoClass",
    "NamePattern",
    "OpenFacts",
    "Output",
    "SetAllocation",
    "SetBasic",
    "SetDisposition",
    "SetEndOfFile",
    "SetMode",
    "SetPosition",
    "SetRename",
    "changed_mode",
    "dot_entries",
    "has_wildcards",
    "is_directory_class",
    "mode_of",
    "name_matches",
    "pack_descriptor",
    "parse_change",
    "query_file",
    "query_filesystem",
    "query_security",
    "short_name",
]

"""The `cmt-memory` command: one file per command group."""

from cmt_memory.cli.app import main

__all__ = ["main"]

"""`python -m cmt_memory` is the `cmt-memory` command."""

from cmt_memory.cli import main

main(prog_name="cmt-memory")

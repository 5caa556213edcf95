"""The `labkit` command: Docker's grammar, one table of commands shared with the magics."""

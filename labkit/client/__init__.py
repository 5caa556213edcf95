"""The Engine API client that the command and the magics use. Standard library only, so that it imports fast."""

"""What the commands do: each takes the session and the understood words, and returns an exit status or nothing."""

"""The daemon's objects and their life: containers, execs, logs, events, and their state on disk."""

"""Volumes: named directories that outlive containers, and the grammar of what is mounted (moby `volume/`)."""

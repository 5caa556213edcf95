"""OCI spec to plan to process: the bundle, the spawner, and what runs in a container's first process."""

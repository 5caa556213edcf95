"""labkit's own registry: what Docker Hub and the Distribution project's `registry` are, over OCI image layouts."""

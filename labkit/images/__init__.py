"""Images: a content store (an OCI image layout on disk), layers, snapshots and archives."""

"""Images: from a name to a mounted root. Store, archives, registries, unpacking, snapshots (docs/images.md)."""

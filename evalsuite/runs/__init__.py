"""Results on disk: atomic, sealed, found by what they are, believed by their digest."""

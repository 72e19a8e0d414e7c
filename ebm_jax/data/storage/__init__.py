"""How data sets lie on disk: paths, archives, prepared directories, caches."""

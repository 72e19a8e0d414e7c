"""Data sets on disk: paths, archives and their formats, prepared directories, caches."""

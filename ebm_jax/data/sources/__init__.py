"""The data sets: one file each, with its address, digest, reader and builder."""

"""One file per data set: where it comes from and how it is read."""

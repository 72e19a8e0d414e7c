"""Data sets as uint8 arrays, and batches as a pure function of (seed, step)."""

"""Trajectories that a model predicts, against true ones."""

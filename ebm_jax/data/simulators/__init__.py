"""Simulators that trajectories are drawn from: functions of a random generator, in NumPy."""

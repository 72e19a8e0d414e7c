"""State, train step, loop, checkpoints, guard and metric writers."""

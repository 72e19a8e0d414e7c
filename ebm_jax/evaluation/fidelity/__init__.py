"""How near samples are to data: distances, scores, memorization."""

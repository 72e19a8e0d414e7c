"""From a config to a run and back from its workdir: the only rooms that see a config."""

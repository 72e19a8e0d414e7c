"""Energy networks: linen modules with explicit fields that return energies [batch]."""

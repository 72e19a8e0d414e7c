"""How sure and how robust classifiers are: calibration, attacks, refinement by chains."""

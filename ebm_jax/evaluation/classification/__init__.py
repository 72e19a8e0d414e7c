"""How sure, how robust and how forgetful classifiers are, and the plain one beside energies."""

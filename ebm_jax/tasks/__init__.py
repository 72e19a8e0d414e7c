"""One file per --mode of main.py."""

"""Objectives: what a method is; the train step knows none of them."""

"""Errors, corruptions, masks, nearest neighbors and quality of images."""

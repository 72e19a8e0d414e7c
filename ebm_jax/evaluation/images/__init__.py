"""Errors of images, and corruptions and masks that hide parts of them."""

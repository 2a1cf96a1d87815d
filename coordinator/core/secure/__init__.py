"""Secure rounds, as far as the coordinator decides in them. Pure."""

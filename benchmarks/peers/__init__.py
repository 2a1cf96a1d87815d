"""The systems a user would pick instead, doing the same null-training work on this machine: FLARE and Flower."""

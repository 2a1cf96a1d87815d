"""What travels between coordinator, sites and researchers, and how. Imports nothing of ours, and no torch."""

"""What backs each claim of speed and size; see README.md in this folder. Never imported by the product."""

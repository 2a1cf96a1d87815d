"""Keys, signatures and who holds which key: what the parties of a consortium trust each other by."""

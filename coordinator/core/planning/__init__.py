"""From a pooled fingerprint to a configuration: nnU-Net's published rules. Pure."""

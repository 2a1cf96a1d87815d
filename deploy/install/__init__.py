"""Putting a service on a Debian machine under systemd. Runs on a bare Python, before anything of ours is installed."""

"""The warm training process, one per experiment, and the frames by which the agent talks to it.

The agent imports `site_agent.training.protocol` and `site_agent.training.client` only: neither imports torch.
"""

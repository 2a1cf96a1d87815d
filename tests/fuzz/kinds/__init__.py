"""The kinds of input that are damaged: a module each, which names its row `KIND`."""

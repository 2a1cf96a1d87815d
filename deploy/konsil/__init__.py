"""What `import konsil` gives a researcher in Python and in a notebook: the commands as calls, with their errors.

`konsil.py` at the top hands this out, so that the installed name needs no folder and no import hook.
"""

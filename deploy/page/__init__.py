"""The live page: what happens, in a browser. Processes of their own; the services listen nowhere new."""

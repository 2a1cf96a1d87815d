"""`konsil doctor`: what is wrong with a party, where, and what to do; and what a human may send for help."""

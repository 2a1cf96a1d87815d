"""What is told of the training cases before there is a net."""

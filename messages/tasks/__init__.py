"""What can be learned: a file a task, with its part of the experiment file, its scores, and how they pool and read."""

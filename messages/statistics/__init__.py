"""What sites tell of their data before anything is trained, and what a federation configures itself to by it."""

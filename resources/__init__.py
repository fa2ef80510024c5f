"""What is outside the library: storage, compute, tracking, and processes that may have died."""

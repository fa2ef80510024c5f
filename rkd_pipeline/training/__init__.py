"""Training: the loop, what a step computes, losses, features, and what a training cost."""

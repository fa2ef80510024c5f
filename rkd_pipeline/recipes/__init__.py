"""What can be trained: recipes, their variants, the key of a training, and plans of many."""

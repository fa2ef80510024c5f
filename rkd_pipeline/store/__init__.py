"""Results on disk: where they lie, how they are written, when one counts as done."""

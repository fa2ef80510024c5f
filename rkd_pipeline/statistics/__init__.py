"""From numbers to statements: replicates, contrasts, many tests at once, and whether a number moved."""

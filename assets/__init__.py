"""The graph, one module per stage. Bodies read like the paper's sentence for their step; the work is in the library."""

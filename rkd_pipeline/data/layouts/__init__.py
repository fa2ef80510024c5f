"""How images lie on disk: one module per dataset, or form of folder."""

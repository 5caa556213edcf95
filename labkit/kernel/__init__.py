"""What Linux gives: one module per kernel feature, each with its operations and the thin binding they need."""

"""Training: three stages as data, one loop (paper section 3.3)."""

"""The demo: one page over one engine, in this process."""

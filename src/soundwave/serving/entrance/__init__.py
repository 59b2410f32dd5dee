"""What stands before every address, and where recordings come in: keys, sizes, hosts."""

"""What a run will cost, derived and never measured: sums, published sizes, and the table that shows them."""

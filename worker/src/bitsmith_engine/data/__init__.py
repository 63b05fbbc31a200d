"""Examples as token ids with marks on what is learned, and batches of them."""

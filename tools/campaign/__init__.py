"""Parts of the campaign simulation: without training, to see what scales."""

"""Pure tensor functions: sampled weights and masks are arguments, nothing is drawn here."""

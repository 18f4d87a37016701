"""One training through every loop adapter, with the weights of a loop written by hand: law 12."""

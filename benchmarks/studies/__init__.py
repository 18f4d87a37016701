"""The shipped studies: their models and data, which need no hub, and the commands that run them."""

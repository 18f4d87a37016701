"""The shipped studies: what they need that no hub has to provide, and the commands that run them."""

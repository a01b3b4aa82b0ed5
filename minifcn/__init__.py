"""minifcn: fully convolutional networks from the inside."""

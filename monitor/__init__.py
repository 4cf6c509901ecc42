"""What the kernel says about containers: ends, events, pressure, numbers, and their exposition."""

"""What a container's life follows: one pure function, `step.step`, over the words of `facts`. No I/O, no clock."""

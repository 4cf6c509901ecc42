"""What the operator writes: container definitions and daemon settings. Imports nothing else of ours."""

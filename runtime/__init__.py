"""Runs containers: definition to OCI spec, spec to launch plan, cgroups, shims."""

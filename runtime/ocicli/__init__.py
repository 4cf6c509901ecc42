"""`wharf-oci`: the native runtime behind the command line that runc defines. Described in docs/wharf-oci.md."""

"""The control API: HTTP on a Unix socket with roles by the peer's credentials, exec by passed fds, metrics on TCP."""

from supervisor.api.serving import Serving, serve

__all__ = ["Serving", "serve"]

"""Names of images for the rest of us: config/image_name.py, with errors that say whose fault it is."""

from __future__ import annotations

from config.errors import DefinitionError
from config.image_name import ImageNameError, Reference, is_digest, parse_image_name

__all__ = ["Reference", "is_digest", "parse_reference"]


def parse_reference(text: str) -> Reference:
    """The reference that `text` means; without tag and digest it means `latest`. Raises DefinitionError."""
    try:
        return parse_image_name(text)
    except ImageNameError as error:
        raise DefinitionError(str(error)) from None

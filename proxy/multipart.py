"""Form bodies: where a field's value stands, found without reading the rest.

Spec: RFC 7578 "multipart/form-data", RFC 2046, section 5.1.
"""

import re
from email.message import Message


def find_field(body: bytes, content_type: str, name: str, begin: int = 0) -> slice | None:
    """Where in a body the value of its first field of this name is; ``None`` if there is none.

    Files are skipped by a search for the boundary, so that they cost next to nothing.

    Args:
        body: A form, as it came.
        content_type: Its content type, with the boundary.
        name: A field's name, in ASCII.
        begin: Where to begin, such as the end of the value found before.
    """
    header = Message()
    header["content-type"] = content_type
    boundary = header.get_boundary()
    if boundary is None:
        return None
    delimiter = b"--" + boundary.encode("latin-1", "replace")
    is_wanted = re.compile(
        rb'^content-disposition:[^\r\n]*;[ \t]*name="?%b"?[ \t]*(?:[;\r]|\Z)' % name.encode(),
        re.IGNORECASE | re.MULTILINE,
    ).search
    at = body.find(delimiter, begin)
    while at >= 0:
        head = at + len(delimiter)
        blank = body.find(b"\r\n\r\n", head)
        end = body.find(b"\r\n" + delimiter, blank + 4)
        if blank < 0 or end < 0:
            return None
        if is_wanted(body, head, blank):
            return slice(blank + 4, end)
        at = end + 2
    return None

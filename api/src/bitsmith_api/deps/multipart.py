"""A form with one file, read as it arrives: the file's bytes go out, small fields are kept, nothing else is taken."""

from collections.abc import Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from bitsmith_api.errors import InvalidRequest, MalformedRequest, PayloadTooLarge

OVERHEAD_BYTES = 64 * 1024  # boundaries, headers and fields


def bad_part(name: str, code: str, detail: str) -> InvalidRequest:
    return InvalidRequest.at(f"form {name}", code, detail)


class Form:
    """
    Args:
        file_part: the name of the part that is the file.
        fields: what else the form may have, each with what to say about it; None: it is kept.
    """

    def __init__(
        self, boundary: bytes, *, file_part: str, fields: Mapping[str, str | None], max_file_bytes: int
    ) -> None:
        self._file_part = file_part
        self._fields = fields
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self.file_bytes = 0
        self._received_bytes = 0
        self._max_file_bytes = max_file_bytes
        self._part = ""  # name of the part being read
        self._header_name = bytearray()
        self._header_value = bytearray()
        self._disposition = b""
        self._value = bytearray()
        self._file_data = bytearray()
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )
        except FormParserError as error:
            raise MalformedRequest(f"the form cannot be read: {error}") from error

    def feed(self, chunk: bytes) -> bytes:
        """The file's bytes in the next piece of the body.

        Raises:
            MalformedRequest: it is not a multipart form.
            PayloadTooLarge: the file, or what surrounds it, is larger than it may be.
            InvalidRequest: a part that nobody asked for.
        """
        self._received_bytes += len(chunk)
        self._file_data.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise MalformedRequest(f"the form cannot be read: {error}") from error
        if self._received_bytes - self.file_bytes > OVERHEAD_BYTES:
            raise PayloadTooLarge(f"the form has more than {OVERHEAD_BYTES} bytes besides the file")
        return bytes(self._file_data)

    def check_complete(self) -> None:
        """Raises MalformedRequest if the body ended before the form did."""
        if not self._is_complete:
            raise MalformedRequest("the form ends before its closing boundary; the upload was cut off")

    def _on_part_begin(self) -> None:
        self._part, self._disposition = "", b""
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        self._part = _text(options.get(b"name", b""), "name of a part")
        filename = options.get(b"filename")
        if self._part == self._file_part:
            if self.filename is not None:
                raise bad_part(self._part, "repeated", "one file at a time")
            if filename is None:
                raise bad_part(self._part, "missing", "send the file's bytes as a file part, with a filename")
            self.filename = _text(filename, "filename")
            return
        refusal = self._fields.get(self._part)
        if refusal is not None:
            raise bad_part(self._part, "not_supported", refusal)
        if self._part not in self._fields or self._part in self.fields or filename is not None:
            kept = [name for name, refusal in self._fields.items() if refusal is None]
            known = ", ".join([self._file_part, *kept])
            raise bad_part(self._part, "unknown_field", f"this part is not expected; the form has {known}, once each")

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part != self._file_part:
            self._value += data[start:end]
            return
        self.file_bytes += end - start
        if self.file_bytes > self._max_file_bytes:
            raise PayloadTooLarge(f"the file is larger than {self._max_file_bytes} bytes, the most that is taken")
        self._file_data += data[start:end]

    def _on_part_end(self) -> None:
        if self._part != self._file_part:
            self.fields[self._part] = _text(bytes(self._value), self._part)

    def _on_end(self) -> None:
        self._is_complete = True


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedRequest(f"the {what} is not UTF-8") from error

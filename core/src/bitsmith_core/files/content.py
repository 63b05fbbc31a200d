"""What a file may hold and be called. Pure: bytes in, a count or a refusal in words out.

Nothing is ever unpacked, so an archive cannot grow here, and nothing is ever unpickled.
"""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from bitsmith_core.errors import InvalidFile, Problem
from bitsmith_core.spec.records import MAX_LINE_BYTES, parse_object, parse_record, read_lines

Purpose = Literal["fine-tune", "evals"]
"""fine-tune: examples to train or validate on; evals: an eval pack, the documents of a benchmark."""

PURPOSES: tuple[Purpose, ...] = get_args(Purpose)

_PARSE = {"fine-tune": parse_record, "evals": parse_object}

_UNPACK = "unpack it and send the .jsonl inside"
_EXPORT = "export its rows as JSON Lines, one object a line"
_ENCODE = "save it as UTF-8 without a byte order mark"
_WEIGHTS = "models are no training data; a base model is named in the job, as hf:org/name"

# UTF-32's mark begins with UTF-16's, so it comes first.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\0\0", "UTF-32 text", _ENCODE),
    (b"\0\0\xfe\xff", "UTF-32 text", _ENCODE),
    (b"\xff\xfe", "UTF-16 text", _ENCODE),
    (b"\xfe\xff", "UTF-16 text", _ENCODE),
    (b"\xef\xbb\xbf", "UTF-8 text with a byte order mark", _ENCODE),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"PK\x05\x06", "a zip archive", _UNPACK),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
    (b"PAR1", "a Parquet file", _EXPORT),
    (b"ARROW1", "an Arrow file", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"\x89HDF", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"%PDF-", "a PDF", _EXPORT),
    (b"GGUF", "a GGUF model", _WEIGHTS),
    *((bytes([0x80, protocol]), "a Python pickle", f"it is never opened; {_EXPORT}") for protocol in range(2, 6)),
)
_TAR_AT, _TAR = 257, b"ustar"
_SAFETENSORS_AT = 8  # after the length of its header, which is JSON


def validate_path(path: Path, purpose: Purpose) -> int:
    """validate, of a file on disk."""
    with path.open("rb") as file:
        return validate(file, purpose)


def validate(stream: BinaryIO, purpose: Purpose) -> int:
    """How many examples a JSONL file holds, each of the shape its purpose asks for. Reads to the end unless it raises.

    Raises:
        InvalidFile: naming each bad line, or what the file is instead.
    """
    lines = _bounded_lines(stream)
    first = next(lines, b"")
    _refuse_foreign(first)
    return sum(1 for _ in read_lines(chain([first], lines), _PARSE[purpose]))


def _bounded_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines as they are, but one that is too long is cut just beyond the limit: no line may fill the memory."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(MAX_LINE_BYTES + 1)
        yield line


def _refuse_foreign(first_line: bytes) -> None:
    found = _foreign(first_line)
    if found is None:
        return
    kind, advice = found
    detail = f"this is {kind}, not JSON Lines in UTF-8; {advice}"
    raise InvalidFile(f"line 1: {detail}", [Problem(pointer="line 1", code="not_json_lines", detail=detail)])


def _foreign(first_line: bytes) -> tuple[str, str] | None:
    """What a file is that begins so, and what to do about it; None if it may be JSON Lines."""
    for signature, kind, advice in _SIGNATURES:
        if first_line.startswith(signature):
            return kind, advice
    if first_line[_TAR_AT:].startswith(_TAR):
        return "a tar archive", _UNPACK
    if first_line[_SAFETENSORS_AT:].startswith(b'{"') and b"\0" in first_line[:_SAFETENSORS_AT]:
        return "a safetensors file", _WEIGHTS
    return None


def check_name(filename: str) -> None:
    """Raises InvalidFile for a name that is a path, too long, or no text."""
    is_path = "/" in filename or "\\" in filename or filename.strip() in {"", ".", ".."}
    if is_path or not filename.isprintable() or len(filename) > 255:
        raise InvalidFile(
            f"{filename[:255]!r} is not a file name; send a plain name without a path, of at most 255 characters"
        )

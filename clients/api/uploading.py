"""Files in requests, in a form or as the body itself: written straight to the disk, their hashes taken on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, cast

from django.conf import settings
from django.core.exceptions import SuspiciousOperation
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http.multipartparser import MultiPartParser, MultiPartParserError
from rest_framework.parsers import BaseParser, DataAndFiles
from rest_framework.request import Request

from marketplace import storage
from marketplace.errors import InvalidRequest, PayloadTooLarge
from marketplace.storage import Spool, Spooled

FILE = "file"
_MAX_NAME = 255


class FileMissing(InvalidRequest):
    code, message = "file_missing", "There is no file in the request."


class SpooledUpload(UploadedFile):
    """A file of a form that is on this machine's disk, its hashes known."""

    def __init__(self, spooled: Spooled, name: str, content_type: str = "") -> None:
        super().__init__(None, name=name, content_type=content_type, size=spooled.size)
        self.spooled = spooled

    def close(self) -> None:
        """Django does this at the end of the request, whatever has happened."""
        self.spooled.path.unlink(missing_ok=True)


class _Handler(FileUploadHandler):
    """One file, whatever its field is called."""

    def __init__(self) -> None:
        super().__init__()
        # Django closes `file` where the form turns out to be broken.
        self.file: _Abandoned | None = None

    def new_file(self, field_name: str, *args: Any, **kwargs: Any) -> None:
        super().new_file(field_name, *args, **kwargs)
        if self.file is not None:
            raise InvalidRequest(fields={field_name: ["One file can be sent at a time."]})
        self.file = _Abandoned(Spool(limit=settings.MAX_UPLOAD_BYTES))

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        assert self.file is not None
        self.file.spool.write(raw_data)

    def file_complete(self, file_size: int) -> UploadedFile:
        assert self.file is not None
        return SpooledUpload(self.file.spool.finish(), self.file_name or "", self.content_type or "")

    def upload_interrupted(self) -> None:
        if self.file is not None:
            self.file.close()


class _Abandoned:
    def __init__(self, spool: Spool) -> None:
        self.spool = spool

    def close(self) -> None:
        self.spool.abandon()


class FormParser(BaseParser):
    """multipart/form-data with one file. Raises InvalidRequest, PayloadTooLarge."""

    media_type = "multipart/form-data"

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> DataAndFiles[Any, Any]:
        request = (parser_context or {})["request"]
        meta = {**request.META, "CONTENT_TYPE": media_type}
        handler, is_whole = _Handler(), False
        try:
            data, files = MultiPartParser(meta, cast(Any, stream), [handler], "utf-8").parse()
            is_whole = True
        except MultiPartParserError as error:
            raise InvalidRequest(f"The form cannot be read: {error}", code="invalid_form") from None
        except SuspiciousOperation as error:
            raise PayloadTooLarge(f"The form has too much beside its file: {error}") from None
        finally:
            if not is_whole:
                handler.upload_interrupted()
        return DataAndFiles(data, files)


def file_of(request: Request, field: str = FILE) -> tuple[Spooled, str]:
    """The file of a form, to be used by `with`, and its name. Raises FileMissing, TooLarge."""
    found = request.FILES.get(field)
    if found is None:
        raise FileMissing(fields={field: ["Send the file in this field."]})
    name = clean_name(found.name or "")
    if isinstance(found, SpooledUpload):
        return found.spooled, name
    # Django has read the form before: to look for the token that sessions need.
    return storage.spool(found.chunks(), limit=settings.MAX_UPLOAD_BYTES), name


def body_of(request: Request) -> Iterator[bytes]:
    """A request's body as it is, in pieces."""
    return storage.chunks_of(cast(IO[bytes], request._request))


def clean_name(name: str) -> str:
    """A file's name without folders, and without what cannot be shown."""
    plain = re.split(r"[/\\]", name)[-1]
    return "".join(each for each in plain if each.isprintable()).strip()[-_MAX_NAME:]

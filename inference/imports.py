"""Models that the operator brings: a folder on this machine becomes a revision that can be hosted and trained."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from clients import files
from clients.models import Blob, Client
from inference import revisions, weights
from inference.models import Model, Revision, Source
from marketplace import storage
from marketplace.errors import Conflict


class NameTaken(Conflict):
    """There is a model of this name that is somebody else's, or that is another name for one."""

    code = "model_name_taken"


def from_folder(
    folder: Path, *, name: str, title: str = "", description: str = "", owner: Client | None = None
) -> Revision:
    """Keep the files of a folder as the newest revision of a model; of the folder only what belongs to a model.

    Raises inference.weights.BadWeights, NameTaken.
    """
    paths = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in weights.ALLOWED and not _is_hidden(path.relative_to(folder))
    }
    kind, family = weights.check_paths(paths)
    found = {each: _kept(path) for each, path in paths.items()}
    model, _ = Model.objects.get_or_create(
        name=name,
        defaults={"title": title, "description": description, "owner": owner, "framework": "transformers"},
    )
    if model.owner_id != (owner.pk if owner else None) or model.is_alias:
        raise NameTaken(f"The name {name} is another's.")
    return revisions.add(model, found, kind=kind, family=family, source=Source.IMPORT, by=owner)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _kept(path: Path) -> Blob:
    with path.open("rb") as file:
        return files.keep_all(storage.chunks_of(file), limit=settings.MAX_FILE_BYTES)

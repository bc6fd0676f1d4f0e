"""`python manage.py import_model NAME FOLDER`: keep the files of a folder as a model of the marketplace's."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from clients.models import Client
from inference import hosting, imports
from inference.models import Model
from marketplace.errors import MarketplaceError


class Command(BaseCommand):
    help = (
        "Keep the files of a folder (safetensors, configuration, tokenizer) as the newest revision of a model, which "
        "can be trained from then, and which nodes serve with --host."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the model's public id, such as meta-llama/Llama-3.1-8B")
        parser.add_argument("folder", type=Path)
        parser.add_argument("--title", default="", help="what people call it")
        parser.add_argument("--description", default="")
        parser.add_argument(
            "--owner", default="", help="the account that alone may use it; everybody by default"
        )
        parser.add_argument(
            "--host", action="store_true", help="have a node serve it, whoever else offers the name"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        folder: Path = options["folder"]
        if not folder.is_dir():
            raise CommandError(f"There is no folder {folder}.")
        try:
            revision = imports.from_folder(
                folder,
                name=options["name"],
                title=options["title"],
                description=options["description"],
                owner=_account(options["owner"]),
            )
        except MarketplaceError as error:
            raise CommandError(error.message) from None
        model: Model = revision.model
        said = f"{model.name}: revision {revision.number}, {revision.size} bytes, {revision.digest}"
        if options["host"]:
            found = hosting.want(model, now=timezone.now())
            said += (
                f"; {found.node} was asked to serve it"
                if found
                else "; no node can host it now, one will be asked"
            )
        self.stdout.write(said)


def _account(name: str) -> Client | None:
    if not name:
        return None
    found = Client.objects.filter(username=name).first()
    if found is None:
        raise CommandError(f"There is no account {name}.")
    return found

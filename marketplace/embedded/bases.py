"""Put the models that the local node answers with into the catalogue, so that they can be trained.

The supervisor runs it as a process of its own: `python -m marketplace.embedded.bases FOLDER`, FOLDER being where agents
keep their models. Repeating changes nothing.
"""

import sys
from pathlib import Path

import django
from django.core.exceptions import ImproperlyConfigured

try:
    django.setup()  # before anything that needs the models
except ImproperlyConfigured as error:
    sys.exit(str(error))

from gpus.agent.engines import folders
from inference import imports
from marketplace.embedded.demo import OWN_MODELS

_TITLES = dict(zip(OWN_MODELS, ("A toy that chats", "all-MiniLM-L6-v2, for embeddings"), strict=True))


def bring(models_dir: Path) -> None:
    for name, title in _TITLES.items():
        found = folders.find(name, models_dir=models_dir)
        imports.from_folder(found.folder, name=name, title=title, description=found.description)


if __name__ == "__main__":
    bring(Path(sys.argv[1]))

"""How much of what clients may store is in models of theirs."""

from django.db.models import Sum

from clients import quotas
from clients.models import Blob
from inference.models import RevisionFile


def _models(client_id: int) -> int:
    """Each content once, whatever number of revisions has it."""
    theirs = RevisionFile.objects.filter(revision__model__owner_id=client_id).values("blob_id")
    return Blob.objects.filter(pk__in=theirs).aggregate(total=Sum("size"))["total"] or 0


quotas.count("models", _models)

"""The catalogue of models: names, their revisions, and which nodes are to host them."""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class Kind(models.TextChoices):
    CHAT = "chat", "chat"
    COMPLETION = "completion", "completion"
    EMBEDDING = "embedding", "embedding"


class Model(models.Model):
    """A model in the catalogue. Nodes offer it by `name`, which is its public id.

    Most models are the nodes' own business: the catalogue only knows their names. One with a revision is kept here, and
    nodes serve it because they are asked to (`Hosting`); one with a target is another name for that model.
    """

    name = models.CharField(max_length=255, unique=True)
    title = models.CharField(max_length=255, blank=True)
    description = models.TextField(blank=True)
    framework = models.CharField(max_length=100, blank=True)
    version = models.CharField(max_length=100, blank=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="models",
        help_text="Empty: everybody's.",
    )
    published_at = models.DateTimeField(
        null=True, blank=True, help_text="Since when everybody may use it, although it has an owner."
    )
    revision = models.ForeignKey(
        "inference.Revision", models.SET_NULL, null=True, blank=True, related_name="+",
        help_text="What nodes that host it are to serve.",
    )  # fmt: skip
    is_hosted = models.BooleanField(
        default=False, db_default=False, help_text="Nodes are asked to serve its revision."
    )
    used_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was last asked, if the marketplace keeps it."
    )
    rests_since = models.DateTimeField(
        null=True, blank=True, help_text="It was idle and had to make room; the next request brings it back."
    )
    target = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="aliases",
        help_text="The model that this is another name for.",
    )  # fmt: skip
    is_alias = models.BooleanField(
        default=False, help_text="Stands for its target, and for nothing without one."
    )
    hidden = models.BooleanField(default=False, help_text="Not listed and not served.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return self.name


class RevisionKind(models.TextChoices):
    FULL = "full", "all weights"
    ADAPTER = "adapter", "a LoRA adapter over its base"


class Family(models.TextChoices):
    """What a model computes, and so what can host and train it."""

    CAUSAL = "causal", "causal language model (transformers)"
    EMBEDDING = "embedding", "embeddings (sentence-transformers)"
    OTHER = "other", "other"


class Source(models.TextChoices):
    UPLOAD = "upload", "uploaded"
    TRAINING = "training", "trained here"
    IMPORT = "import", "imported by the operator"


class Revision(models.Model):
    """The files of a model at one time. They never change; a change is a further revision."""

    model = models.ForeignKey(Model, models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    kind = models.CharField(max_length=7, choices=RevisionKind)
    family = models.CharField(max_length=9, choices=Family)
    base = models.ForeignKey(
        "self", models.PROTECT, null=True, blank=True, related_name="derived",
        help_text="What it was trained from; an adapter needs it to be served.",
    )  # fmt: skip
    digest = models.CharField(max_length=64, db_index=True, help_text="SHA-256 of the list of its files.")
    model_hash = models.CharField(
        max_length=66, db_index=True, help_text="0x…, keccak256 of the same: its name in the broker's API."
    )
    size = models.BigIntegerField(help_text="Bytes, all files together.")
    config = models.JSONField(default=dict, blank=True, help_text="What its uploader says of it.")
    source = models.CharField(max_length=8, choices=Source)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["-id"]
        constraints = [models.UniqueConstraint("model", "number", name="revision_number_unique")]

    def __str__(self) -> str:
        return f"{self.model_id}@{self.number}"

    @property
    def label(self) -> str:
        """What offers, records and receipts call it."""
        return self.digest[:12]


class RevisionFile(models.Model):
    revision = models.ForeignKey(Revision, models.CASCADE, related_name="files")
    path = models.CharField(max_length=255, help_text="Within the model's folder.")
    blob = models.ForeignKey("clients.Blob", models.PROTECT, related_name="+")

    class Meta:
        ordering = ["path"]
        constraints = [models.UniqueConstraint("revision", "path", name="revision_file_unique")]

    def __str__(self) -> str:
        return self.path


class HostingState(models.TextChoices):
    WANTED = "wanted", "the node has been asked"
    LOADING = "loading", "the node fetches and loads it"
    SERVING = "serving", "the node serves it"
    FAILED = "failed", "the node cannot serve it"


class Hosting(models.Model):
    """A node that is to serve a model that the marketplace keeps. Taken away where it need not any longer."""

    node = models.ForeignKey("gpus.Node", models.CASCADE, related_name="hostings")
    model = models.ForeignKey(Model, models.CASCADE, related_name="hostings")
    revision = models.ForeignKey(Revision, models.CASCADE, related_name="hostings")
    state = models.CharField(max_length=7, choices=HostingState, default=HostingState.WANTED)
    reason = models.CharField(max_length=500, blank=True)
    asked_at = models.DateTimeField(db_default=Now())
    changed_at = models.DateTimeField(db_default=Now())

    class Meta:
        ordering = ["id"]
        constraints = [models.UniqueConstraint("node", "model", name="hosting_unique")]

    def __str__(self) -> str:
        return f"{self.model_id} on {self.node_id}: {self.state}"

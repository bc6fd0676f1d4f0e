"""`/fine-tuning/task`: the task management API's view of fine-tuning, for embedding models."""

from __future__ import annotations

import hashlib
from typing import Any
from uuid import UUID

import orjson
from django.conf import settings
from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.api.idempotency import KEY_PARAMETER, once
from clients.authentication import caller
from clients.idempotency import REPLAYED
from clients.models import Client
from finetune import jobs, ordering
from finetune.api import placing
from finetune.api.fields import ObjectField, StrictBooleanField
from finetune.models import Face, Job, JobStatus, Method
from finetune.ordering import MOST_SEED, Wanted
from finetune.quotes import NotTrainable
from finetune.records import stamp
from marketplace import money
from marketplace.errors import InvalidRequest
from marketplace.paging import BareArrayPagination

STATUSES = {
    JobStatus.PENDING: "pending",
    JobStatus.RUNNING: "processing",
    JobStatus.PAUSED: "pending",
    JobStatus.SUCCEEDED: "completed",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "canceled",
    JobStatus.REFUSED: "refused",
}
# How clients of other versions of this API write them.
_ALSO = {"done": "completed", "cancelled": "canceled", "error": "failed"}
WORDS = (*dict.fromkeys(STATUSES.values()), *_ALSO)


class CreateTask(serializers.Serializer[Any]):
    """The document's request; `hyperparameters`, `seed`, `suffix` and where it may run are ours."""

    embedding_model_id = serializers.CharField(
        max_length=400,
        help_text="The model to start from: its id, NAME@REVISION, a task's id, or a best_model_id.",
    )
    batch_id = serializers.CharField(
        max_length=100, required=False, allow_null=True, help_text="The training data: a dataset's id."
    )
    metadata = ObjectField(required=False, allow_null=True)
    idempotency_key = serializers.CharField(
        max_length=255, required=False, allow_null=True, allow_blank=True, trim_whitespace=False,
        help_text="Yours alone, and for good: with the same body it gets the task that it made, with another a 409.",
    )  # fmt: skip
    deploy_as_blue = StrictBooleanField(
        required=False,
        allow_null=True,
        help_text="Have the result answer under the live name when it is better.",
    )
    wait_on_conflict = StrictBooleanField(
        required=False, allow_null=True, help_text="Wait where another deployment is under way, else refuse."
    )
    hyperparameters = ObjectField(
        required=False, allow_null=True, help_text="GET /fine-tuning/parameters lists them."
    )
    seed = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=MOST_SEED)
    where = serializers.CharField(
        required=False, allow_null=True, max_length=20, help_text=placing.WHERE_TEXT
    )
    allocation_id = serializers.UUIDField(required=False, allow_null=True)


class TaskObject(serializers.Serializer[Any]):
    """A task. What there is not (yet) is left out, as the document's own list does."""

    id = serializers.CharField()
    status = serializers.ChoiceField(list(dict.fromkeys(STATUSES.values())))
    created_at = serializers.DateTimeField()
    updated_at = serializers.DateTimeField()
    embedding_model_id = serializers.CharField()
    batch_id = serializers.CharField()
    best_model_url = serializers.CharField(
        required=False, help_text="The result's files, for whoever created the task."
    )
    best_model_id = serializers.CharField(
        required=False,
        help_text="The best model there is now: the result, or the one it started from if that is better.",
    )
    metadata = ObjectField(required=False)
    idempotency_key = serializers.CharField(required=False)
    deploy_as_blue = serializers.BooleanField(required=False)
    wait_on_conflict = serializers.BooleanField(required=False)
    detail = serializers.CharField(required=False, help_text="Why it is as it is.")
    price = serializers.CharField(help_text="What is charged if it succeeds.")


def task_object(job: Job) -> dict[str, Any]:
    """A job in this API's words. Absent values are left out."""
    said = job.said if job.face == Face.TASKS else {}
    found = {
        "id": job.uid.hex,
        "status": STATUSES[JobStatus(job.status)],
        "created_at": stamp(job.created_at),
        "updated_at": stamp(job.changed_at),
        "embedding_model_id": said.get("embedding_model_id", job.base.model.name),
        "batch_id": job.dataset.uid,
        **_best(job),
        "metadata": said.get("metadata", job.metadata or None),
        "idempotency_key": job.idempotency_key,
        "deploy_as_blue": said.get("deploy_as_blue", job.deploy or None),
        "wait_on_conflict": said.get("wait_on_conflict", job.wait_on_conflict or None),
        "detail": job.reason or None,
        "price": money.render(job.price),
    }
    return {name: value for name, value in found.items() if value is not None}


def _best(job: Job) -> dict[str, str]:
    """The best model of a task that is completed: what it started from stays the best if the result is no better."""
    if job.status != JobStatus.SUCCEEDED or job.result is None:
        return {}
    if not job.is_better:
        return {"best_model_id": job.base.model.name}
    return {
        "best_model_url": f"{settings.PUBLIC_URL}/fine-tuning/task/{job.uid.hex}/artifact",
        "best_model_id": job.result.model.name,
    }


class TaskPagination(BareArrayPagination):
    default_limit = 100
    max_limit = 1000


def _create(owner: Client, request: Request, said: dict[str, Any]) -> tuple[Job, bool]:
    """The task of a request, and whether it was made before."""
    now, key = timezone.now(), said.get("idempotency_key") or None
    fingerprint = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()
    if key is not None and (before := ordering.known(owner, key, request_sha256=fingerprint)) is not None:
        return before, True
    if not said.get("batch_id"):
        raise InvalidRequest(
            "batch_id is missing: there is no batch that is being collected here. Upload the training data "
            "(POST /data/upload) and say its dataset_id.",
            param="batch_id",
        )
    wanted = Wanted(
        owner=owner,
        model=said["embedding_model_id"],
        dataset=said["batch_id"],
        asked=said.get("hyperparameters") or {},
        **placing.policy(request, said),
        **ordering.limits_of(request.auth),
    )
    prepared = ordering.prepare(wanted, now=now)
    if prepared.quote.method != Method.EMBEDDING:
        raise NotTrainable(
            f"{prepared.base.model.name} is no embedding model. POST /v1/fine_tuning/jobs trains language models.",
        )
    order = prepared.order(
        Face.TASKS,
        seed=said.get("seed"),
        metadata=said.get("metadata") or {},
        deploy=bool(said.get("deploy_as_blue")),
        wait_on_conflict=bool(said.get("wait_on_conflict")),
        said={name: said.get(name) for name in _SAID},
        idempotency_key=key,
        request_sha256=fingerprint,
    )
    return ordering.start_once(order, now=now)


_SAID = ("embedding_model_id", "metadata", "deploy_as_blue", "wait_on_conflict")


class TasksView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_task_create",
        tags=["fine-tuning"],
        request_body=CreateTask,
        manual_parameters=[KEY_PARAMETER, *placing.PARAMETERS],
        responses={200: TaskObject, **errors(400, 401, 402, 403, 404, 409, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Create a fine-tuning task. Its price is held now, and charged when it is completed.

        The status is 200, as the document's implementation has it, also for a repeat with the same `idempotency_key`,
        which says `Idempotent-Replayed: true`.
        """
        _ = request.body  # before it is parsed, so that it can be compared with an earlier one
        form = CreateTask(data=request.data)
        form.is_valid(raise_exception=True)
        said = {name: value for name, value in form.validated_data.items() if value is not None}
        answer: Response = self._create(request, said)
        return answer

    @once
    def _create(self, request: Request, said: dict[str, Any]) -> Response:
        job, is_old = _create(caller(request), request, said)
        return Response(task_object(job), headers={REPLAYED: "true"} if is_old else None)

    @swagger_auto_schema(
        operation_id="fine-tuning_task_list",
        tags=["fine-tuning"],
        manual_parameters=[
            *TaskPagination().parameters(),
            openapi.Parameter(
                "status",
                openapi.IN_QUERY,
                "Only tasks in this state.",
                type=openapi.TYPE_STRING,
                enum=list(WORDS),
            ),
        ],
        responses={200: TaskObject(many=True), **errors(400, 401)},
    )
    def get(self, request: Request) -> Response:
        """Your tasks, whichever API they came through, the newest first; their number is in `X-Total-Count`."""
        rows, word = jobs.of(caller(request)), request.query_params.get("status")
        if word is not None:
            if word not in WORDS:
                raise InvalidRequest(fields={"status": [f"Expected one of {', '.join(WORDS)}."]})
            meant = _ALSO.get(word, word)
            rows = rows.filter(status__in=[status for status, name in STATUSES.items() if name == meant])
        pages = TaskPagination()
        page = pages.paginate_queryset(rows, request)
        return pages.get_paginated_response([task_object(job) for job in page])


def find_task(request: Request, text: str) -> Job:
    """The caller's task of this id. Raises JobNotFound."""
    try:
        return jobs.find(UUID(text.removeprefix("ftjob-")), owner=caller(request))
    except (ValueError, jobs.JobNotFound):
        raise jobs.JobNotFound(f"Task with ID `{text[:100]}` not found") from None


class TaskView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_task_read",
        tags=["fine-tuning"],
        responses={200: TaskObject, **errors(401, 404)},
    )
    def get(self, request: Request, id: str) -> Response:
        """One of your tasks."""
        return Response(task_object(find_task(request, id)))


class RestartView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_task_restart",
        tags=["fine-tuning"],
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={200: TaskObject, **errors(400, 401, 402, 404, 409, 503)},
    )
    def put(self, request: Request, id: str) -> Response:
        """Run a task that has ended once more, for what it costs today. One that is pending stays so; one that is
        processing is a 409."""
        job, limits = find_task(request, id), ordering.limits_of(request.auth)
        return Response(task_object(ordering.again(job, now=timezone.now(), **limits)))


class CancelView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_task_cancel",
        tags=["fine-tuning"],
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={200: TaskObject, **errors(401, 404, 409)},
    )
    def put(self, request: Request, id: str) -> Response:
        """Stop a task at once; nothing is charged. One that is canceled stays so; one that has ended is a 409."""
        job = find_task(request, id)
        return Response(task_object(jobs.cancel(job, now=timezone.now(), by=caller(request))))

"""`/v1/fine_tuning/jobs`: fine-tuning as OpenAI's clients do it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from django.db.models import Model, Q, QuerySet
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
from finetune import jobs, ordering, records
from finetune.api import placing
from finetune.api.fields import LabelsField, ObjectField, StrictBooleanField, check_json
from finetune.api.openai_objects import (
    CHECKPOINT,
    EVENT,
    JOB,
    CheckpointListObject,
    EventListObject,
    JobListObject,
    JobObject,
    checkpoint_object,
    event_object,
    job_object,
    uid_of,
)
from finetune.models import Checkpoint, Face, Job
from finetune.ordering import MOST_SEED, Prepared, Wanted
from marketplace.errors import InvalidRequest
from marketplace.parsing import Strict, is_yes

Row = TypeVar("Row", bound=Model)
DRY_RUN = "X-Dry-Run"
MOST_PER_PAGE = 100
_SUFFIX = r"\A[A-Za-z0-9._-]{0,64}\Z"
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class CreateJob(Strict, serializers.Serializer[Any]):
    """OpenAI's request, and where it may run."""

    model = serializers.CharField(
        max_length=400, help_text="A model's id, NAME@REVISION, or a job's id for its result."
    )
    training_file = serializers.CharField(max_length=100, help_text="A file's id, from /v1/files.")
    validation_file = serializers.CharField(max_length=100, required=False, allow_null=True)
    hyperparameters = ObjectField(
        required=False,
        allow_null=True,
        help_text="GET /fine-tuning/parameters lists them; each may be `auto`.",
    )
    method = ObjectField(
        required=False,
        allow_null=True,
        help_text='{"type": "supervised", "supervised": {"hyperparameters": {…}}}',
    )
    suffix = serializers.RegexField(
        _SUFFIX, required=False, allow_null=True, allow_blank=True,
        error_messages={"invalid": "Expected at most 64 letters of English, digits, and . _ -"},
    )  # fmt: skip
    seed = serializers.IntegerField(required=False, allow_null=True, min_value=0, max_value=MOST_SEED)
    metadata = LabelsField(required=False, allow_null=True)
    integrations = serializers.JSONField(required=False, allow_null=True, help_text="Must be empty.")
    where = serializers.CharField(
        required=False, allow_null=True, max_length=20, help_text=placing.WHERE_TEXT
    )
    allocation_id = serializers.UUIDField(required=False, allow_null=True)
    dry_run = StrictBooleanField(
        required=False, default=False, help_text="Only answer the quote. `X-Dry-Run: true` does the same."
    )

    def validate_integrations(self, said: Any) -> list[Any]:
        if said:
            raise serializers.ValidationError(
                "There are no integrations here. Leave them out: GET /v1/fine_tuning/jobs/{id}/events has the "
                "same figures."
            )
        return []


def hyperparameters(said: dict[str, Any]) -> dict[str, Any]:
    """What a request asks of the trainer, in whichever of the two places. Raises InvalidRequest."""
    plain, method = said.get("hyperparameters") or {}, said.get("method") or {}
    kind = method.get("type", "supervised")
    if kind != "supervised":
        raise InvalidRequest(
            f"The method {str(kind)[:30]!r} is not offered; 'supervised' is.",
            code="unsupported_method",
            param="method",
        )
    inner = method.get("supervised") or {}
    more = inner.get("hyperparameters") if isinstance(inner, dict) else inner
    if more is not None and not isinstance(more, dict):
        raise InvalidRequest("method.supervised.hyperparameters must be an object.", param="method")
    if plain and more:
        raise InvalidRequest(
            "Say the hyper-parameters once: in method.supervised.hyperparameters.", param="hyperparameters"
        )
    found: dict[str, Any] = dict(more or plain)
    return found


def _wanted(request: Request, said: dict[str, Any]) -> Wanted:
    return Wanted(
        owner=caller(request),
        model=said["model"],
        dataset=said["training_file"],
        validation=said.get("validation_file") or "",
        asked=hyperparameters(said),
        **placing.policy(request, said),
        **ordering.limits_of(request.auth),
    )


def dry_run_object(prepared: Prepared) -> dict[str, Any]:
    """A quote that somebody has asked for instead of a job."""
    return {
        "object": "fine_tuning.quote",
        "model": prepared.base.model.name,
        "training_file": prepared.dataset.uid,
        **prepared.quote.to_json(),
    }


class OpenAIJobsView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_create",
        tags=["v1"],
        request_body=CreateJob,
        manual_parameters=[
            KEY_PARAMETER,
            *placing.PARAMETERS,
            openapi.Parameter(
                DRY_RUN,
                openapi.IN_HEADER,
                "Only answer the quote; nothing is begun.",
                type=openapi.TYPE_BOOLEAN,
            ),
        ],
        responses={200: JobObject, **errors(400, 401, 402, 403, 404, 409, 413, 415, 429, 503)},
    )
    def post(self, request: Request) -> Response:
        """Begin a fine-tuning job. Its price is held now, and charged when it has succeeded."""
        _ = request.body  # before it is parsed, so that it can be compared with an earlier one
        form = CreateJob(data=request.data)
        form.is_valid(raise_exception=True)
        said = form.validated_data
        if said["dry_run"] or (
            DRY_RUN in request.headers and is_yes(request.headers[DRY_RUN], param=DRY_RUN)
        ):
            prepared = ordering.prepare(_wanted(request, said), now=timezone.now())
            return Response(dry_run_object(prepared))
        answer: Response = self._create(request, said)
        return answer

    @once
    def _create(self, request: Request, said: dict[str, Any]) -> Response:
        now = timezone.now()
        prepared = ordering.prepare(_wanted(request, said), now=now)
        order = prepared.order(
            Face.OPENAI,
            seed=said.get("seed"),
            suffix=said.get("suffix") or "",
            metadata=said.get("metadata") or {},
        )
        return Response(job_object(jobs.start(order, now=now)))

    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_list",
        tags=["v1"],
        manual_parameters=[
            openapi.Parameter(
                "after", openapi.IN_QUERY, "The last id of the page before.", type=openapi.TYPE_STRING
            ),
            openapi.Parameter("limit", openapi.IN_QUERY, "From 1 to 100; 20.", type=openapi.TYPE_INTEGER),
            openapi.Parameter(
                "metadata",
                openapi.IN_QUERY,
                "`metadata[name]=text`, or `metadata=null`.",
                type=openapi.TYPE_STRING,
            ),
        ],
        responses={200: JobListObject, **errors(400, 401)},
    )
    def get(self, request: Request) -> Response:
        """Your jobs, whichever API they came through, the newest first."""
        rows = jobs.of(caller(request)).select_related("validation").filter(_metadata_filter(request))
        page, has_more = _page(rows, request, default=20, find=_job_before)
        return Response({"object": "list", "data": [job_object(job) for job in page], "has_more": has_more})


def _metadata_filter(request: Request) -> Q:
    """What `metadata[name]=text` and `metadata=null` leave. Raises InvalidRequest."""
    pairs = {
        found[1]: text for name, text in request.query_params.items() if (found := _METADATA.fullmatch(name))
    }
    plain = request.query_params.get("metadata")
    if plain is not None and (plain != "null" or pairs):
        raise InvalidRequest("Filter by metadata[name]=text, or by metadata=null alone.", param="metadata")
    if len(pairs) > 16:
        raise InvalidRequest("At most 16 names can be asked for.", param="metadata")
    try:
        check_json(pairs)
    except serializers.ValidationError as error:
        raise InvalidRequest(str(error.detail[0]), param="metadata") from None  # type: ignore[index]
    return Q(metadata={}) if plain is not None else Q(metadata__contains=pairs)


def _page(
    rows: QuerySet[Row], request: Request, *, default: int, find: Callable[[str], Q | None]
) -> tuple[list[Row], bool]:
    """The rows behind `after`, at most `limit` of them, and whether there are more. Raises InvalidRequest."""
    text = request.query_params.get("limit", str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MOST_PER_PAGE):
        raise InvalidRequest(f"limit must be a whole number from 1 to {MOST_PER_PAGE}.", param="limit")
    limit, after = int(text), request.query_params.get("after")
    if after:
        where = find(after)
        last = None if where is None else rows.filter(where).values_list("pk", flat=True).first()
        if last is None:
            raise InvalidRequest(f"There is nothing with the id {after[:60]!r} to list after.", param="after")
        rows = rows.filter(pk__lt=last)
    found = list(rows.order_by("-pk")[: limit + 1])
    return found[:limit], len(found) > limit


def _job_before(text: str) -> Q | None:
    uid = uid_of(text, JOB)
    return None if uid is None else Q(uid=uid)


def _event_before(text: str) -> Q | None:
    number = text.removeprefix(EVENT)
    return Q(pk=int(number)) if number.isascii() and number.isdecimal() and len(number) <= 18 else None


def _checkpoint_before(text: str) -> Q | None:
    uid = uid_of(text, CHECKPOINT)
    return None if uid is None else Q(uid=uid)


def find_job(request: Request, text: str, prefix: str = JOB) -> Job:
    """The caller's job of this id. Raises JobNotFound."""
    uid = uid_of(text, prefix)
    if uid is None:
        raise jobs.JobNotFound
    return jobs.find(uid, owner=caller(request))


_JOB_ANSWER = {200: JobObject, **errors(401, 404)}


class OpenAIJobView(APIView):
    @swagger_auto_schema(operation_id="v1_fine_tuning_jobs_read", tags=["v1"], responses=_JOB_ANSWER)
    def get(self, request: Request, job: str) -> Response:
        """One of your jobs."""
        return Response(job_object(find_job(request, job)))


class CancelView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_cancel",
        tags=["v1"],
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={**_JOB_ANSWER, **errors(409)},
    )
    def post(self, request: Request, job: str) -> Response:
        """End a job at once; nothing is charged."""
        found = find_job(request, job)
        return Response(job_object(jobs.cancel(found, now=timezone.now(), by=caller(request))))


class PauseView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_pause",
        tags=["v1"],
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={**_JOB_ANSWER, **errors(409)},
    )
    def post(self, request: Request, job: str) -> Response:
        """Let a job rest. It keeps what it has learned, and its price stays held."""
        return Response(job_object(jobs.pause(find_job(request, job), now=timezone.now())))


class ResumeView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_resume",
        tags=["v1"],
        request_body=openapi.Schema(type=openapi.TYPE_OBJECT),
        responses={**_JOB_ANSWER, **errors(409)},
    )
    def post(self, request: Request, job: str) -> Response:
        """Let a paused job go on from its last checkpoint."""
        return Response(job_object(jobs.resume(find_job(request, job), now=timezone.now())))


_PAGE_PARAMETERS = [
    openapi.Parameter("after", openapi.IN_QUERY, "The last id of the page before.", type=openapi.TYPE_STRING),
    openapi.Parameter("limit", openapi.IN_QUERY, "From 1 to 100.", type=openapi.TYPE_INTEGER),
]


class EventsView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_events",
        tags=["v1"],
        manual_parameters=_PAGE_PARAMETERS,
        responses={200: EventListObject, **errors(400, 401, 404)},
    )
    def get(self, request: Request, job: str) -> Response:
        """What has happened to a job, the newest first."""
        found = find_job(request, job)
        page, has_more = _page(found.events.all(), request, default=20, find=_event_before)
        return Response(
            {"object": "list", "data": [event_object(each) for each in page], "has_more": has_more}
        )


class CheckpointsView(APIView):
    @swagger_auto_schema(
        operation_id="v1_fine_tuning_jobs_checkpoints",
        tags=["v1"],
        manual_parameters=_PAGE_PARAMETERS,
        responses={200: CheckpointListObject, **errors(400, 401, 404)},
    )
    def get(self, request: Request, job: str) -> Response:
        """The checkpoints of a job, the newest first."""
        found = find_job(request, job)
        rows = Checkpoint.objects.filter(job=found)
        page, has_more = _page(rows, request, default=10, find=_checkpoint_before)
        measured = {row["step"]: row for row in records.steps(found)} if page else {}
        data = [
            checkpoint_object(each, found, measured.get(each.step, {}) if each.run == found.run else {})
            for each in page
        ]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return Response({"object": "list", "data": data, "has_more": has_more, **ends})

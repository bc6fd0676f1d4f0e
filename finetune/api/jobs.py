"""`/fine-tuning/jobs`: every job of yours with all that is known of it, whichever API it came through."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.authentication import caller
from finetune import jobs, records
from finetune.api.broker import text_part
from finetune.api.fields import ObjectField
from finetune.api.openai_objects import OwnObject, own
from finetune.api.tasks import TaskPagination, find_task
from finetune.models import Face, Job


class JobDetail(OwnObject):
    id = serializers.CharField()
    api = serializers.ChoiceField(Face.choices, help_text="Which one it came through.")
    model = serializers.CharField()
    dataset = serializers.CharField()
    result = serializers.CharField(allow_null=True, help_text="The model that it has made.")
    tokens = serializers.IntegerField(help_text="That it is paid for.")
    hyperparameters = ObjectField()
    seed = serializers.IntegerField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


def job_object(job: Job) -> dict[str, Any]:
    return {
        "id": job.uid.hex,
        "api": job.face,
        "model": job.base.model.name,
        "dataset": job.dataset.uid,
        "result": job.result.model.name if job.result is not None else None,
        "tokens": int(job.tokens * job.epochs),
        "hyperparameters": job.parameters,
        "seed": job.seed,
        "created_at": records.stamp(job.created_at),
        "started_at": records.stamp(job.started_at) if job.started_at else None,
        "finished_at": records.stamp(job.finished_at) if job.finished_at else None,
        **own(job),
    }


class JobsView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_jobs_list",
        tags=["fine-tuning"],
        manual_parameters=TaskPagination().parameters(),
        responses={200: JobDetail(many=True), **errors(400, 401)},
    )
    def get(self, request: Request) -> Response:
        """Your jobs, the newest first; their number is in `X-Total-Count`."""
        pages = TaskPagination()
        page = pages.paginate_queryset(jobs.of(caller(request)), request)
        return pages.get_paginated_response([job_object(job) for job in page])


class JobView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_jobs_read",
        tags=["fine-tuning"],
        responses={200: JobDetail, **errors(401, 404)},
    )
    def get(self, request: Request, id: str) -> Response:
        """One of your jobs."""
        return Response(job_object(find_task(request, id)))


class StepsView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_jobs_steps",
        tags=["fine-tuning"],
        responses={
            200: openapi.Response(
                "A row for each step: step, train_loss, learning_rate, epoch, tokens, tokens_per_s, valid_…",
                openapi.Schema(type=openapi.TYPE_ARRAY, items=openapi.Schema(type=openapi.TYPE_OBJECT)),
            ),
            **errors(401, 404),
        },
    )
    def get(self, request: Request, id: str) -> Response:
        """The figures of a job's last run: its loss curve, and what was measured on held-out rows."""
        return Response(records.steps(find_task(request, id)))


class JobLogView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_jobs_log",
        tags=["fine-tuning"],
        manual_parameters=[
            openapi.Parameter(
                "Range", openapi.IN_HEADER, "`bytes=1024-`: what is new.", type=openapi.TYPE_STRING
            )
        ],
        responses={
            200: openapi.Response("The log.", openapi.Schema(type=openapi.TYPE_FILE)),
            206: openapi.Response("The part that was asked for.", openapi.Schema(type=openapi.TYPE_FILE)),
            416: "There is nothing (yet) from there on.",
            **errors(401, 404),
        },
    )
    def get(self, request: Request, id: str) -> HttpResponse:
        """The log of a job, as a text."""
        return text_part(request, records.log(find_task(request, id)).encode())

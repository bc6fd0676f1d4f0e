"""What a job has made, for its owner: the result's files, each and all as one archive, and the table of its steps."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from django.conf import settings
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.api.files import CONTENT, RANGE_PARAMETERS, reply
from finetune import jobs, records
from finetune.api.openai_jobs import find_job
from finetune.api.openai_objects import RESULT_FILE, status_of
from finetune.api.tasks import find_task
from finetune.models import Job, JobStatus
from finetune.results import name_of
from inference import packages, revisions
from inference.api.downloads import streamed
from inference.models import Revision
from marketplace.errors import Conflict, NotFound


class NoResult(Conflict):
    code = "no_result"


class NoSuchFile(NotFound):
    code, message = "file_not_found", "The result has no such file."


def result_of(job: Job) -> Revision:
    """Raises NoResult."""
    if job.result is None:
        raise NoResult(f"There is no result (yet): the job is {job.get_status_display()}. {job.reason}")
    return job.result


class ResultFile(serializers.Serializer[Any]):
    path = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    sha256 = serializers.CharField()
    url = serializers.CharField()


class ArtifactView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_artifact",
        tags=["fine-tuning"],
        responses={
            200: openapi.Response("A tar archive.", openapi.Schema(type=openapi.TYPE_FILE)),
            **errors(401, 404, 409),
        },
    )
    def get(self, request: Request, id: str) -> HttpResponseBase:
        """All files of your task's result, as a tar archive."""
        job = find_task(request, id)
        found = revisions.files_of(result_of(job))
        folder = name_of(job).replace(":", "-")
        size = packages.tar_size(found, folder=folder)
        pieces = packages.tar(found, folder=folder)
        return streamed(
            request, pieces, size=size, filename=f"{folder}.tar", content_type="application/x-tar"
        )


class ArtifactFilesView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_artifact_files",
        tags=["fine-tuning"],
        responses={200: ResultFile(many=True), **errors(401, 404, 409)},
    )
    def get(self, request: Request, id: str) -> Response:
        """The files of your task's result."""
        job = find_task(request, id)
        at = f"{settings.PUBLIC_URL}/fine-tuning/task/{job.uid.hex}/artifact/files"
        return Response(
            [
                {"path": path, "size": blob.size, "sha256": blob.sha256, "url": f"{at}/{quote(path)}"}
                for path, blob in sorted(revisions.files_of(result_of(job)).items())
            ]
        )


class ArtifactFileView(APIView):
    @swagger_auto_schema(
        operation_id="fine-tuning_artifact_file",
        tags=["fine-tuning"],
        manual_parameters=RANGE_PARAMETERS,
        responses={**CONTENT, **errors(401, 404, 409)},
    )
    def get(self, request: Request, id: str, path: str) -> HttpResponseBase:
        """One file of your task's result."""
        blob = revisions.files_of(result_of(find_task(request, id))).get(path)
        if blob is None:
            raise NoSuchFile
        return reply(request, blob, filename=path.rsplit("/", 1)[-1])


# --- result_files of OpenAI's jobs -------------------------------------------------------------------------


class FileObject(serializers.Serializer[Any]):
    object = serializers.CharField()
    id = serializers.CharField()
    bytes = serializers.IntegerField()
    created_at = serializers.IntegerField()
    expires_at = serializers.IntegerField(allow_null=True)
    filename = serializers.CharField()
    purpose = serializers.CharField()
    status = serializers.CharField()
    status_details = serializers.CharField(allow_null=True)

    class Meta:
        ref_name = "ResultFileObject"


def _steps_of(request: Request, text: str) -> tuple[Job, bytes]:
    """A succeeded job by the id of its result file, and that file. Raises JobNotFound."""
    job = find_job(request, text, prefix=RESULT_FILE)
    if job.status != JobStatus.SUCCEEDED:
        raise jobs.JobNotFound(f"The job is {status_of(job)}: there is no result file (yet).")
    return job, records.table(job).encode()


class ResultFileView(APIView):
    @swagger_auto_schema(
        operation_id="v1_files_result_read", tags=["v1"], responses={200: FileObject, **errors(401, 404)}
    )
    def get(self, request: Request, job: str) -> Response:
        """The table of a job's steps, as OpenAI's file object."""
        found, table = _steps_of(request, job)
        assert found.finished_at is not None
        return Response(
            {
                "object": "file",
                "id": f"{RESULT_FILE}{found.uid.hex}",
                "bytes": len(table),
                "created_at": int(found.finished_at.timestamp()),
                "expires_at": None,
                "filename": "step_metrics.csv",
                "purpose": "fine-tune-results",
                "status": "processed",
                "status_details": None,
            }
        )


class ResultFileContentView(APIView):
    @swagger_auto_schema(
        operation_id="v1_files_result_content",
        tags=["v1"],
        responses={
            200: openapi.Response("CSV, a line for each step.", openapi.Schema(type=openapi.TYPE_FILE)),
            **errors(401, 404),
        },
    )
    def get(self, request: Request, job: str) -> HttpResponse:
        """The table of a job's steps."""
        _, table = _steps_of(request, job)
        found = HttpResponse(table, content_type="text/csv; charset=utf-8")
        found["Content-Disposition"] = 'attachment; filename="step_metrics.csv"'
        return found

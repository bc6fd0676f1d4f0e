"""`/fine-tuning/deployments`: letting a model answer under a name that stays, and going back."""

from __future__ import annotations

from typing import Any

from django.utils import timezone
from drf_yasg import openapi
from drf_yasg.utils import no_body, swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.documentation import errors
from clients.authentication import caller
from finetune import deployments
from finetune.api.fields import StrictBooleanField
from finetune.models import Deployment, DeploymentStatus
from marketplace.paging import BareArrayPagination
from marketplace.parsing import Strict


class Deploy(Strict, serializers.Serializer[Any]):
    """What shall answer, and under which name."""

    model = serializers.CharField(max_length=255, help_text="One of your models, by its id.")
    alias = serializers.CharField(
        max_length=255,
        required=False,
        default="",
        allow_blank=True,
        help_text="One word, for `ft:BASE:YOU:WORD`, or such a name in full. Without it the word is `live`.",
    )
    wait_on_conflict = StrictBooleanField(
        required=False,
        default=False,
        help_text="Whether to wait where another model is being deployed under the same name. Otherwise it is a 409.",
    )


class DeploymentSerializer(serializers.ModelSerializer[Deployment]):
    alias = serializers.CharField(
        source="alias.name", help_text="The name; ask models by it as by any other."
    )
    model = serializers.CharField(
        source="model.name", help_text="Which model answers under it, once it is live."
    )
    previous = serializers.CharField(
        source="previous.name", default=None, allow_null=True, help_text="What a rollback goes back to."
    )
    task_id = serializers.SerializerMethodField(help_text="The fine-tuning task that wanted it, if one did.")
    status = serializers.ChoiceField(DeploymentStatus.choices)
    reason = serializers.CharField(help_text="Why it is as it is.")

    class Meta:
        model = Deployment
        fields = (
            "id", "alias", "model", "previous", "task_id", "status", "reason", "wait_on_conflict", "created_at",
            "changed_at", "live_at",
        )  # fmt: skip
        read_only_fields = fields

    def get_task_id(self, deployment: Deployment) -> str | None:
        return None if deployment.job is None else deployment.job.uid.hex


class DeploymentsView(APIView):
    pagination_class = BareArrayPagination

    @swagger_auto_schema(
        operation_id="fine_tuning_deployments_list",
        manual_parameters=[
            *BareArrayPagination().parameters(),
            openapi.Parameter(
                "alias", openapi.IN_QUERY, "Only those of this name.", type=openapi.TYPE_STRING
            ),
        ],
        responses={200: DeploymentSerializer(many=True), **errors(400, 401, 429)},
    )
    def get(self, request: Request) -> Response:
        """Your deployments, newest first."""
        found = deployments.of(caller(request))
        if alias := request.query_params.get("alias"):
            found = found.filter(alias__name=alias.replace("\0", ""))
        pages = BareArrayPagination()
        page = pages.paginate_queryset(found, request)
        return pages.get_paginated_response(DeploymentSerializer(page, many=True).data)

    @swagger_auto_schema(
        operation_id="fine_tuning_deployments_create",
        request_body=Deploy,
        responses={
            201: DeploymentSerializer,
            **errors(400, 401, 403, 413, 415, 429),
            404: openapi.Response("You have no such model."),
            409: openapi.Response(
                "Another model is being deployed under this name, or the name is another model's."
            ),
        },
    )
    def post(self, request: Request) -> Response:
        """Let one of your models answer under a name that stays.

        Nodes load it first. The name leads to it, in one moment, once one of them has answered with it; until then, and
        where that fails, the name leads where it led. Repeated, it is the deployment that is there already.
        """
        asked = Deploy(data=request.data)
        asked.is_valid(raise_exception=True)
        said = asked.validated_data
        model = deployments.model_of(caller(request), said["model"])
        made = deployments.start(
            model, name=said["alias"], wait_on_conflict=said["wait_on_conflict"], now=timezone.now()
        )
        return Response(DeploymentSerializer(made).data, status=201)


class DeploymentView(APIView):
    @swagger_auto_schema(
        operation_id="fine_tuning_deployments_read",
        responses={200: DeploymentSerializer, **errors(401, 404, 429)},
    )
    def get(self, request: Request, pk: int) -> Response:
        """One of your deployments."""
        return Response(DeploymentSerializer(deployments.find(pk, owner=caller(request))).data)


class RollbackView(APIView):
    @swagger_auto_schema(
        operation_id="fine_tuning_deployments_rollback",
        request_body=no_body,
        responses={
            200: DeploymentSerializer,
            **errors(401, 403, 404, 429),
            409: openapi.Response(
                "It is not live, nothing was before it, or that is gone or not loaded any longer."
            ),
        },
    )
    def post(self, request: Request, pk: int) -> Response:
        """Let the name of a live deployment lead to the model before it again, at once. Both stay loaded for a day."""
        me = caller(request)
        found = deployments.find(pk, owner=me)
        deployments.roll_back(found, by=me, now=timezone.now())
        return Response(DeploymentSerializer(deployments.find(pk, owner=me)).data)

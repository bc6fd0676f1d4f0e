"""/client/provider/: asking to become a provider, and seeing what became of it."""

from django.utils import timezone
from drf_yasg.utils import no_body, swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients import providers
from clients.api.documentation import errors
from clients.authentication import ReadsOrIsLoggedIn, caller
from clients.models import Client, ProviderStatus


class ProviderAnswer(serializers.ModelSerializer[Client]):
    status = serializers.ChoiceField(source="provider_status", choices=ProviderStatus.choices, read_only=True)
    code = serializers.SerializerMethodField(help_text="Why it is so, for programs.")
    message = serializers.SerializerMethodField(help_text="Why it is so, for people.")
    fix = serializers.SerializerMethodField(help_text="What to do about it.")
    reason = serializers.CharField(
        source="provider_reason", read_only=True, allow_blank=True, help_text="The operator's own words."
    )
    role = serializers.ChoiceField(choices=("user", "gpu_provider", "admin"), read_only=True)
    is_gpu_provider_approved = serializers.BooleanField(read_only=True)
    decided_at = serializers.DateTimeField(source="provider_decided_at", read_only=True, allow_null=True)

    class Meta:
        model = Client
        fields = (
            "status",
            "code",
            "message",
            "fix",
            "reason",
            "role",
            "is_gpu_provider_approved",
            "provider_registration_date",
            "decided_at",
        )
        read_only_fields = fields

    def get_code(self, client: Client) -> str:
        return providers.standing(client).code

    def get_message(self, client: Client) -> str:
        return providers.standing(client).message

    def get_fix(self, client: Client) -> str:
        return providers.standing(client).fix


class Provider(APIView):
    permission_classes = (ReadsOrIsLoggedIn,)

    @swagger_auto_schema(
        operation_id="client_provider_read",
        tags=["client"],
        responses={200: ProviderAnswer, **errors(401)},
    )
    def get(self, request: Request) -> Response:
        """Where you stand as a provider, and why."""
        return Response(ProviderAnswer(caller(request)).data)

    @swagger_auto_schema(
        operation_id="client_provider_create",
        tags=["client"],
        request_body=no_body,
        responses={201: ProviderAnswer, **errors(400, 401, 403, 415)},
    )
    def post(self, request: Request) -> Response:
        """Ask to become a provider. Asking again changes nothing."""
        client = providers.ask(caller(request), now=timezone.now())
        return Response(ProviderAnswer(client).data, status=201)

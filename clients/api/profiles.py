"""/client/list/: your own record, or everybody's for an operator."""

from collections.abc import Iterator
from contextlib import contextmanager

from django.db.models import QuerySet
from django.utils import timezone
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from clients import accounts
from clients.api.documentation import errors
from clients.authentication import ReadsOrIsLoggedIn, caller
from clients.models import Client
from marketplace.errors import Forbidden
from marketplace.paging import BareArrayPagination

MASKED = "********"


class UserSerializer(serializers.ModelSerializer[Client]):
    """The document's nested `user`. Uniqueness is the database's to judge."""

    username = serializers.CharField(max_length=150, validators=[Client.username_validator])
    email = serializers.EmailField(max_length=254)

    class Meta:
        model = Client
        fields = ("id", "username", "email")
        ref_name = "User"


class ClientSerializer(serializers.ModelSerializer[Client]):
    """The document's schema, key for key."""

    user = UserSerializer(source="*")
    user_token = serializers.SerializerMethodField(help_text="Always masked: tokens are stored hashed.")
    role = serializers.ChoiceField(choices=("user", "gpu_provider", "admin"), read_only=True)
    user_image = serializers.IntegerField(min_value=0, max_value=32767, required=False)
    is_gpu_provider_approved = serializers.BooleanField(read_only=True)

    class Meta:
        model = Client
        fields = (
            "user",
            "phone_no",
            "user_token",
            "user_image",
            "ip",
            "terms_accepted",
            "role",
            "profile_image_url",
            "is_gpu_provider_approved",
            "provider_registration_date",
        )
        read_only_fields = ("ip", "profile_image_url", "provider_registration_date")
        ref_name = "Client"

    def get_user_token(self, client: Client) -> str:
        return MASKED


class ClientChange(ClientSerializer):
    """For PUT and PATCH: what is left out stays as it is."""

    user = UserSerializer(source="*", required=False)

    class Meta(ClientSerializer.Meta):
        ref_name = "ClientChange"


class Profiles(GenericAPIView[Client]):
    queryset = Client.objects.none()
    serializer_class = ClientSerializer
    permission_classes = (ReadsOrIsLoggedIn,)
    lookup_field = "id"

    def get_queryset(self) -> QuerySet[Client]:
        """Whom the caller may see; everybody else does not exist."""
        if getattr(self, "swagger_fake_view", False):
            return Client.objects.none()
        client = caller(self.request)
        found = Client.objects.filter(closed_at=None).order_by("pk")
        return found if _may(client, "view") else found.filter(pk=client.pk)

    def get_object_to(self, action: str) -> Client:
        """The record in the path, if the caller may `change` or `delete` it. Raises NotFound, Forbidden."""
        found, client = self.get_object(), caller(self.request)
        if found.pk == client.pk:
            return found
        # Whoever can change an operator's e-mail address can become that operator.
        if not _may(client, action) or (found.is_staff and not client.is_superuser):
            raise Forbidden()
        return found


class ProfileList(Profiles):
    pagination_class = BareArrayPagination

    @swagger_auto_schema(
        operation_id="client_list_list",
        tags=["client"],
        responses={200: ClientSerializer(many=True), **errors(400, 401)},
    )
    def get(self, request: Request) -> Response:
        """Your own record; for an operator, everybody's."""
        page = self.paginate_queryset(self.get_queryset())
        return self.get_paginated_response(ClientSerializer(page, many=True).data)

    @swagger_auto_schema(
        operation_id="client_list_create",
        tags=["client"],
        request_body=ClientSerializer,
        responses={201: ClientSerializer, **errors(400, 401, 403, 415)},
    )
    def post(self, request: Request) -> Response:
        """Open an account for somebody (operators only). They set a password through a password reset."""
        if not _may(caller(request), "add"):
            raise Forbidden("Only operators open accounts for others. Use /client/register/.")
        form = ClientSerializer(data=request.data)
        form.is_valid(raise_exception=True)
        with _nested():
            client = accounts.create(**form.validated_data)
        return Response(ClientSerializer(client).data, status=201)


class Profile(Profiles):
    @swagger_auto_schema(
        operation_id="client_list_read",
        tags=["client"],
        responses={200: ClientSerializer, **errors(401, 404)},
    )
    def get(self, request: Request, id: int) -> Response:
        """One record that you may see."""
        return Response(ClientSerializer(self.get_object()).data)

    @swagger_auto_schema(
        operation_id="client_list_update",
        tags=["client"],
        request_body=ClientChange,
        responses={200: ClientSerializer, **errors(400, 401, 403, 404, 415)},
    )
    def put(self, request: Request, id: int) -> Response:
        """Change a record."""
        return self._change(request, partial=False)

    @swagger_auto_schema(
        operation_id="client_list_partial_update",
        tags=["client"],
        request_body=ClientChange,
        responses={200: ClientSerializer, **errors(400, 401, 403, 404, 415)},
    )
    def patch(self, request: Request, id: int) -> Response:
        """Change a part of a record."""
        return self._change(request, partial=True)

    @swagger_auto_schema(
        operation_id="client_list_delete",
        tags=["client"],
        responses={204: "The account is closed.", **errors(401, 403, 404, 409)},
    )
    def delete(self, request: Request, id: int) -> Response:
        """Close an account for good.

        Personal data is erased, devices are logged out, API keys revoked; what was computed and paid stays on
        record, without a name.
        """
        accounts.close(self.get_object_to("delete"), now=timezone.now())
        return Response(status=204)

    def _change(self, request: Request, *, partial: bool) -> Response:
        client = self.get_object_to("change")
        form = ClientChange(client, data=request.data, partial=partial)
        form.is_valid(raise_exception=True)
        with _nested():
            accounts.update(client, changes=form.validated_data)
        return Response(ClientSerializer(client).data)


@contextmanager
def _nested() -> Iterator[None]:
    """Errors about the username and the address, under `user`, where the request had them."""
    try:
        yield
    except (accounts.Taken, accounts.BadUsername) as error:
        raise type(error)(error.message, fields={"user": error.fields}) from None


def _may(client: Client, action: str) -> bool:
    return client.is_staff and client.has_perm(f"clients.{action}_client")

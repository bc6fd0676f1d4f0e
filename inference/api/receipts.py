"""`/inference/{id}/receipt` and `/receipts/key/`."""

from typing import Any

from django.shortcuts import get_object_or_404
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.authentication import caller
from inference import proofs, signing
from inference.records import StillRunning
from inference.verification import SCHEME


class InclusionSerializer(serializers.Serializer[Any]):
    """Where the receipt is sealed: leads from it to the root of its batch, as OpenZeppelin's MerkleProof checks it."""

    batch = serializers.IntegerField()
    index = serializers.IntegerField(help_text="Which of the batch's receipts it is.")
    proof = serializers.ListField(child=serializers.CharField(help_text="0x…, 32 bytes."))
    root: Any = serializers.CharField(help_text="0x…, keccak256.")
    root_signature = serializers.CharField(help_text="EIP-191, of the root's 32 bytes.")


class ReceiptDocument(serializers.Serializer[Any]):
    """A receipt with what proves it; `manage.py verify_receipt`, or inference/verification.py by itself, checks it."""

    receipt = serializers.DictField(
        child=serializers.JSONField(),
        help_text="Who answered what to whom at which price, what it did cost and how that was shared. "
        "Amounts are decimal strings of tokens of money.",
    )
    signature = serializers.CharField(
        help_text="EIP-191, of the receipt as JSON with sorted keys and without spaces."
    )
    signer = serializers.CharField(
        help_text="The address whose signature it is; compare it with /receipts/key/."
    )
    inclusion = InclusionSerializer(
        allow_null=True, help_text="null until it is sealed, about half a minute later."
    )


class ReceiptView(APIView):
    @swagger_auto_schema(
        operation_id="inference_receipt",
        tags=["inference"],
        responses={
            200: ReceiptDocument,
            404: "There is no such request of yours, or it did cost nothing (`no_receipt`).",
            409: StillRunning.message,
        },
    )
    def get(self, request: Request, pk: int) -> Response:
        """The signed receipt of a request that was paid, always the same. Also after the record was deleted."""
        me = caller(request)
        record = get_object_or_404(proofs.visible_to(me.pk, everybody=me.is_staff), pk=pk)
        return Response(proofs.document(record))


class ReceiptKeyView(APIView):
    authentication_classes = ()
    permission_classes = (AllowAny,)

    @swagger_auto_schema(
        operation_id="receipts_key",
        tags=["inference"],
        security=[],
        responses={
            200: openapi.Response(
                "Keep it: whoever has changed a receipt could change this answer as well.",
                openapi.Schema(
                    type=openapi.TYPE_OBJECT,
                    properties={
                        "address": openapi.Schema(type=openapi.TYPE_STRING, description="0x…"),
                        "scheme": openapi.Schema(type=openapi.TYPE_STRING, enum=[SCHEME]),
                    },
                ),
            )
        },
    )
    def get(self, request: Request) -> Response:
        """The address of the key that signs receipts."""
        return Response({"address": signing.signer(), "scheme": SCHEME})

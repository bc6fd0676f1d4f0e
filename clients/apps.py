from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class ClientsConfig(AppConfig):
    name = "clients"

    def ready(self) -> None:
        autodiscover_modules("books", "quotas")

"""All settings, from the environment only. A wrong value stops the start and says what would be right.

The defaults are the safe ones for production; the embedded run (`scripts/run`) sets what a demo needs.
"""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import dj_database_url
from corsheaders.defaults import default_headers
from django.core.exceptions import ImproperlyConfigured
from django.templatetags.static import static
from django.urls import reverse_lazy
from environs import Env, EnvError, ValidationError, validate

BASE_DIR = Path(__file__).resolve().parent.parent

env = Env(eager=False)


def _seconds(name: str, default: float, *, minimum: float = 0) -> float:
    return env.float(name, default, validate=validate.Range(min=minimum))


def _is_amount(value: Decimal) -> None:
    exponent = value.as_tuple().exponent
    if value < 0 or value >= 10**18 or not isinstance(exponent, int) or exponent < -18:
        raise ValidationError("Must be a number of tokens, not negative, with at most 18 decimals.")


def _is_names(value: Any) -> None:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise ValidationError("Must be a JSON object of texts.")


# --- Where things are ------------------------------------------------------------------------------------
SECRET_KEY = env.str("SECRET_KEY", validate=validate.Length(min=32))
DEBUG = env.bool("DEBUG", False)
MARKETPLACE_HOME = Path(env.str("MARKETPLACE_HOME", str(BASE_DIR / ".local")) or str(BASE_DIR / ".local"))
DATABASE_URL = env.str("DATABASE_URL")
REDIS_URL = env.str("REDIS_URL")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", ["localhost", "127.0.0.1", "[::1]"])
PUBLIC_URL = env.str("PUBLIC_URL", "http://localhost:8000")

# --- The marketplace -------------------------------------------------------------------------------------
MARKETPLACE_NAME = env.str("MARKETPLACE_NAME", "GPU marketplace")
# Anybody who registers a node becomes an approved provider at once. For demos and private clusters.
OPEN_PROVIDER_REGISTRATION = env.bool("OPEN_PROVIDER_REGISTRATION", False)
HEARTBEAT_INTERVAL_S = _seconds("HEARTBEAT_INTERVAL_S", 15, minimum=1)
# A node that misses this many heartbeats in a row is silent.
HEARTBEATS_MISSED = env.int("HEARTBEATS_MISSED", 3, validate=validate.Range(min=1))
MINIMUM_AGENT_VERSION = env.str(
    "MINIMUM_AGENT_VERSION", "0.1.0", validate=validate.Regexp(r"^\d+\.\d+\.\d+$")
)
# A push URL may name a private or loopback address only if this is on (the embedded run, a closed network).
ALLOW_PRIVATE_NODE_URLS = env.bool("ALLOW_PRIVATE_NODE_URLS", False)
REQUEST_DEADLINE_S = _seconds("REQUEST_DEADLINE_S", 600, minimum=1)
# How long a request may wait for a free slot when every node that could serve it is full.
QUEUE_WAIT_S = _seconds("QUEUE_WAIT_S", 20)
# How many requests may wait for one model in one process.
QUEUE_LENGTH = env.int("QUEUE_LENGTH", 256, validate=validate.Range(min=0))
# Requests that Django works on at the same time, per process: each may hold a connection to the database.
DJANGO_CONCURRENCY = env.int("DJANGO_CONCURRENCY", 24, validate=validate.Range(min=1))
MAX_REQUEST_BYTES = env.int("MAX_REQUEST_BYTES", 32 * 1024 * 1024, validate=validate.Range(min=1024))
MAX_RESPONSE_BYTES = env.int("MAX_RESPONSE_BYTES", 64 * 1024 * 1024, validate=validate.Range(min=1024))
# How many trainings each worker of the queue `finetune` runs itself at the same time; 0: only nodes train.
TRAINING_SLOTS = env.int("TRAINING_SLOTS", 1, validate=validate.Range(min=0, max=64))
# The longest that one run of a training may take, and how long its node may be silent until it is given to another one.
TRAINING_MAX_HOURS = env.float("TRAINING_MAX_HOURS", 72, validate=validate.Range(min=0.01))
TRAINING_LOST_AFTER_S = _seconds("TRAINING_LOST_AFTER_S", 30, minimum=2)
# One request that brings a file, and a whole file that may come in parts.
MAX_UPLOAD_BYTES = env.int("MAX_UPLOAD_BYTES", 1024**3, validate=validate.Range(min=1024))
MAX_FILE_BYTES = env.int("MAX_FILE_BYTES", 64 * 1024**3, validate=validate.Range(min=1024))
# What one client may have stored: datasets and models together.
MAX_STORED_BYTES = env.int("MAX_STORED_BYTES", 256 * 1024**3, validate=validate.Range(min=0))
# Where they are kept: in a bucket of Amazon S3 or of what speaks like it (credentials as boto3 finds them), else in
# a folder of this machine. The prefix goes before all names in the bucket.
FILES_BUCKET = env.str("FILES_BUCKET", "")
FILES_ENDPOINT = env.str("FILES_ENDPOINT", "")
FILES_REGION = env.str("FILES_REGION", "")
FILES_PREFIX = env.str("FILES_PREFIX", "")
# Whether everybody may read the tasks and logs of a wallet, as the broker's protocol has it; else only who shows that
# the wallet is theirs.
BROKER_OPEN_READS = env.bool("BROKER_OPEN_READS", True)
# Where the TDX guest agent of a dstack machine listens, if this runs in one.
DSTACK_SOCKETS: list[str] = env.list(
    "DSTACK_SOCKETS", ["/var/run/dstack.sock", "/var/run/dstack/dstack.sock", "/var/run/tappd.sock"]
)
# The context of a model whose node does not say how long it is: what a request without max_tokens is held for.
ASSUMED_CONTEXT_TOKENS = env.int("ASSUMED_CONTEXT_TOKENS", 8192, validate=validate.Range(min=1))
# A reply that cost money is kept for whoever repeats the request with the same Idempotency-Key: how long, how large.
IDEMPOTENCY_HOURS = env.float("IDEMPOTENCY_HOURS", 24, validate=validate.Range(min=0.01))
IDEMPOTENCY_MAX_REPLY_BYTES = env.int(
    "IDEMPOTENCY_MAX_REPLY_BYTES", 1024 * 1024, validate=validate.Range(min=0)
)
# For how long, counted from now, nodes can be reserved.
ALLOCATION_MAX_HOURS = env.float("ALLOCATION_MAX_HOURS", 720, validate=validate.Range(min=0.01, max=87_600))
# The Ethereum key that signs receipts, 0x and 64 hexadecimal digits. Empty: one that SECRET_KEY gives.
RECEIPT_KEY: str = env.str("RECEIPT_KEY", "", validate=validate.Regexp(r"^(0x[0-9a-fA-F]{64})?$"))
CURRENCY = env.str("CURRENCY", "OMNIT")  # the symbol of the money that everything is paid in
# What a new account is given, in tokens.
STARTING_CREDIT = env.decimal("STARTING_CREDIT", Decimal(0), validate=_is_amount)
GOOGLE_CLIENT_IDS: list[str] = env.list("GOOGLE_CLIENT_IDS", [])
# Where Google's signing certificates are read. Replaceable, so that tests can sign their own tokens.
GOOGLE_CERTS_URL = env.str("GOOGLE_CERTS_URL", "https://www.googleapis.com/oauth2/v1/certs")
PASSWORD_RESET_URL = (
    env.str("PASSWORD_RESET_URL", "") or f"{PUBLIC_URL}/client/reset-password/{{uid}}/{{token}}/"
)
DEVICE_TOKEN_DAYS = env.int("DEVICE_TOKEN_DAYS", 30, validate=validate.Range(min=1))
# How long a web process may trust what it has read about a credential; a cut-off key is announced sooner.
CREDENTIAL_CACHE_S = _seconds("CREDENTIAL_CACHE_S", 5)

# --- Chains ----------------------------------------------------------------------------------------------
# The chains to follow: manifests (path or URL), "ogpu-mainnet", "ogpu-testnet"; the first is the one that is meant
# where nobody says which. The node to ask is the manifest's, or the one of CHAIN_RPC_URLS ({"name": "https://…"}), or,
# for the first, CHAIN_RPC_URL.
CHAIN_NETWORKS: list[str] = env.list("CHAIN_NETWORKS", [])
CHAIN_RPC_URL = env.str("CHAIN_RPC_URL", "")
CHAIN_RPC_URLS: Any = env.json("CHAIN_RPC_URLS", {}, validate=_is_names)
# The keys that pay withdrawals, publish and confirm (CHAIN_KEY), and that answer tasks (CHAIN_PROVIDER_KEY; the same
# where it is empty): 0x and 64 hexadecimal digits, or the path of an encrypted keystore file, with its password.
CHAIN_KEY = env.str("CHAIN_KEY", "")
CHAIN_KEYSTORE_PASSWORD = env.str("CHAIN_KEYSTORE_PASSWORD", "")
CHAIN_PROVIDER_KEY = env.str("CHAIN_PROVIDER_KEY", "")
CHAIN_PROVIDER_KEYSTORE_PASSWORD = env.str("CHAIN_PROVIDER_KEYSTORE_PASSWORD", "")
CHAIN_TIMEOUT_S = _seconds("CHAIN_TIMEOUT_S", 10, minimum=0.1)
# How many blocks one question for events covers; what is sent and is in no block after so long gets higher fees, up to
# the most that a unit of gas may cost.
CHAIN_WINDOW_BLOCKS = env.int("CHAIN_WINDOW_BLOCKS", 500, validate=validate.Range(min=1))
CHAIN_BUMP_AFTER_S = _seconds("CHAIN_BUMP_AFTER_S", 45, minimum=1)
CHAIN_MAX_FEE_GWEI = env.int("CHAIN_MAX_FEE_GWEI", 500, validate=validate.Range(min=1))
# Below so many of the chain's coins on a sender, and beyond so many blocks that are not read yet, operators are warned.
CHAIN_LOW_BALANCE = env.decimal("CHAIN_LOW_BALANCE", Decimal("0.1"), validate=_is_amount)
CHAIN_LAG_BLOCKS = env.int("CHAIN_LAG_BLOCKS", 50, validate=validate.Range(min=1))
# Whether sources that name one of this marketplace's models are served without an operator's word.
CHAIN_SERVE_OPEN = env.bool("CHAIN_SERVE_OPEN", False)
# Files that anybody may leave for tasks to point to.
PIN_MAX_BYTES = env.int("PIN_MAX_BYTES", 1024 * 1024, validate=validate.Range(min=1024, max=1024 * 1024))
PIN_DAYS = env.int("PIN_DAYS", 30, validate=validate.Range(min=1))
# How much of that there may be altogether: beyond it, strangers are asked to come again later.
PIN_TOTAL_BYTES = env.int("PIN_TOTAL_BYTES", 1024**3, validate=validate.Range(min=0))
# Where workers reach this marketplace's own API, if not at PUBLIC_URL.
INTERNAL_URL = env.str("INTERNAL_URL", "")

# --- Django ----------------------------------------------------------------------------------------------
INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "corsheaders",
    "axes",
    "rest_framework",
    "drf_yasg",
    "clients",
    "gpus",
    "inference",
    "finetune",
    "chain",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "corsheaders.middleware.CorsMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = "marketplace.urls"
ASGI_APPLICATION = "marketplace.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en-us"
TIME_ZONE = "UTC"
USE_TZ = True
STATIC_URL = "static/"
# Static files are served from where their packages keep them; `collectstatic` needs a folder named here.
STATIC_ROOT = env.str("STATIC_ROOT", "") or None
WHITENOISE_USE_FINDERS = True
# Swagger and the admin ship their assets; nothing is fetched from a CDN.
_bucket = {
    "bucket_name": FILES_BUCKET,
    "endpoint_url": FILES_ENDPOINT or None,
    "region_name": FILES_REGION or None,
    "location": FILES_PREFIX.strip("/"),
    "file_overwrite": True,  # names are never used twice
    "signature_version": "s3v4",
}
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": _bucket}
    if FILES_BUCKET
    else {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
MEDIA_ROOT = MARKETPLACE_HOME / "files"
# What a request brings stays in memory up to so many bytes, and is on the disk beyond.
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", "INFO")},
    # What a caller did wrong, or wanted in vain, has been told to the caller.
    "filters": {
        "not_in_vain": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", 500) != 503,
        }
    },
    "loggers": {"django.request": {"level": "ERROR", "filters": ["not_in_vain"]}},
}

# --- Database, cache, jobs -------------------------------------------------------------------------------
CELERY_TASK_DEFAULT_QUEUE = "default"
CELERY_TASK_ROUTES = {"finetune.tasks.run_jobs": {"queue": "finetune"}, "chain.tasks.*": {"queue": "chain"}}
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_TIME_LIMIT = 300
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
# --- Who may call ----------------------------------------------------------------------------------------
AUTH_USER_MODEL = "clients.Client"
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
AXES_FAILURE_LIMIT = env.int("LOGIN_FAILURE_LIMIT", 5, validate=validate.Range(min=1))
AXES_COOLOFF_TIME = _seconds("LOGIN_COOLOFF_HOURS", 0.25)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ACCESS_FAILURE_LOG = False
AXES_DISABLE_ACCESS_LOG = True
# Trying again while locked out does not prolong it, so that Retry-After says the truth.
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_CLIENT_IP_CALLABLE = "clients.origin.network_of"
AXES_ENABLE_ADMIN = False  # clients.admin shows the same in the admin's own look
AXES_VERBOSE = False
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["clients.authentication.CredentialAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["marketplace.parsing.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "marketplace.parsing.AlwaysFirst",
    "DEFAULT_THROTTLE_CLASSES": ["clients.throttling.ScopedThrottle"],
    "DEFAULT_THROTTLE_RATES": {
        scope: env.str(
            f"THROTTLE_{scope.upper()}", rate, validate=validate.Regexp(r"^\d+/(s|sec|m|min|h|hour|d|day)$")
        )
        for scope, rate in {
            "login": "30/min",
            "register": "20/hour",
            "reset": "10/hour",
            "token": "60/min",
            "transfer": "60/min",
            "wallet": "30/min",
            "broker": "120/min",
            "pin": "120/min",
            "chain": "60/min",
        }.items()
    },
    "EXCEPTION_HANDLER": "marketplace.errors.drf_exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

# --- Browsers --------------------------------------------------------------------------------------------
CORS_ALLOWED_ORIGINS: list[str] = env.list("CORS_ALLOWED_ORIGINS", [])
CORS_ALLOW_ALL_ORIGINS = env.bool("CORS_ALLOW_ALL_ORIGINS", False)
CORS_EXPOSE_HEADERS = [
    *("X-Request-Id", "X-Inference-Id", "X-Node", "X-Receipt", "X-Cost", "X-Total-Count", "Retry-After"),
    "Idempotent-Replayed",
]
CORS_ALLOW_HEADERS = [*default_headers, "idempotency-key"]
CORS_URLS_REGEX = r"^/(?!admin/).*$"
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", [])
HTTPS = env.bool("HTTPS", True)
SECURE_SSL_REDIRECT = SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if env.bool("BEHIND_PROXY", False) else None
X_FRAME_OPTIONS = "DENY"

# --- E-mail ----------------------------------------------------------------------------------------------
EMAIL_BACKEND = env.str("EMAIL_BACKEND", "django.core.mail.backends.console.EmailBackend")
EMAIL_HOST = env.str("EMAIL_HOST", "localhost")
EMAIL_PORT = env.int("EMAIL_PORT", 25)
EMAIL_HOST_USER = env.str("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.str("EMAIL_HOST_PASSWORD", "")
EMAIL_USE_TLS = env.bool("EMAIL_USE_TLS", False)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", "marketplace@localhost")

_HINTS = {
    "CHAIN_RPC_URLS": 'JSON such as {"ogpu-testnet": "https://…"}',
    "RECEIPT_KEY": "0x and 64 hexadecimal digits, for example from: "
    "python -c \"import secrets; print('0x' + secrets.token_hex(32))\"",
    "SECRET_KEY": "at least 32 random characters, for example from: "
    'python -c "import secrets; print(secrets.token_urlsafe(48))"',
    "DATABASE_URL": "postgresql://user:password@host:5432/name",
    "REDIS_URL": "redis://host:6379/0, or redis+socket:///path for a Unix socket",
    "PUBLIC_URL": "the address people reach this marketplace at, http(s)://host[:port]",
}


def _sealed() -> None:
    """Report every wrong value at once, each with a hint."""
    try:
        env.seal()
    except EnvError as error:
        wrong: dict[str, list[str]] = getattr(error, "error_messages", {})
        lines = [
            f"  {name}: {' '.join(map(str, messages))}"
            + (f"\n    Expected: {_HINTS[name]}" if name in _HINTS else "")
            for name, messages in wrong.items()
        ]
        raise ImproperlyConfigured(
            "These environment variables are missing or wrong:\n"
            + "\n".join(lines)
            + "\n  `scripts/run` sets all of them for a local marketplace; see README.md, “Settings”."
        ) from None


_sealed()


def _checked_url(name: str, value: str, schemes: tuple[str, ...]) -> str:
    if value.split(":", 1)[0] not in schemes or "://" not in value:
        raise ImproperlyConfigured(f"{name} is {value!r}.\n    Expected: {_HINTS[name]}")
    return value.rstrip("/")


_checked_url("DATABASE_URL", DATABASE_URL, ("postgres", "postgresql"))
_checked_url("REDIS_URL", REDIS_URL, ("redis", "rediss", "redis+socket", "unix"))
PUBLIC_URL = _checked_url("PUBLIC_URL", PUBLIC_URL, ("http", "https"))
INTERNAL_URL = INTERNAL_URL.rstrip("/") or PUBLIC_URL

DATABASES = {"default": dict(dj_database_url.parse(DATABASE_URL, conn_max_age=0, conn_health_checks=True))}
# redis-py says unix://, Celery says redis+socket:// for the same thing.
CACHE_URL = REDIS_URL.replace("redis+socket://", "unix://", 1)
CELERY_BROKER_URL = REDIS_URL.replace("unix://", "redis+socket://", 1)
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": CACHE_URL,
        "OPTIONS": {"socket_connect_timeout": 2, "socket_timeout": 5},
    }
}


def _may_view(model: str) -> Callable[[Any], bool]:
    """Whether an operator sees a link to the page of a model, such as "gpus_node"."""
    app, name = model.split("_")
    return lambda request: request.user.has_perm(f"{app}.view_{name}")


UNFOLD = {
    "SITE_TITLE": MARKETPLACE_NAME,
    "SITE_HEADER": MARKETPLACE_NAME,
    "SITE_SYMBOL": "memory",
    "DASHBOARD_CALLBACK": "chain.admin.warned.on_dashboard",
    "STYLES": [lambda request: static("clients/admin.css")],
    "SIDEBAR": {
        "show_search": True,
        "show_all_applications": True,
        "navigation": [
            {
                "title": title,
                "separator": True,
                "items": [
                    {
                        "title": name,
                        "icon": icon,
                        "link": reverse_lazy(view[0] if view else f"admin:{model}_changelist"),
                        "permission": _may_view(model),
                    }
                    for name, icon, model, *view in items
                ],
            }
            for title, items in (
                (
                    "To decide",
                    [
                        ("Provider requests", "how_to_reg", "clients_provider"),
                        ("Payouts", "payments", "clients_payout"),
                        ("Withdrawals", "send_money", "chain_withdrawal"),
                        ("Sources to serve", "rule", "chain_service"),
                    ],
                ),
                (
                    "Live",
                    [
                        ("Nodes", "dns", "gpus_node"),
                        ("Requests", "bolt", "inference_inference"),
                        ("Models", "category", "inference_model"),
                        ("Revisions", "inventory_2", "inference_revision"),
                        ("Hosting", "dns", "inference_hosting"),
                        ("Allocations", "event_available", "gpus_allocation"),
                        ("Gateways", "hub", "gpus_gateway"),
                    ],
                ),
                (
                    "Fine-tuning",
                    [
                        ("Jobs", "model_training", "finetune_job"),
                        ("Datasets", "dataset", "finetune_dataset"),
                        ("Deployments", "rocket_launch", "finetune_deployment"),
                        ("Attempts", "replay", "finetune_attempt"),
                    ],
                ),
                (
                    "Chain",
                    [
                        ("Networks", "link", "chain_network"),
                        ("Sources", "storefront", "chain_source"),
                        ("Tasks", "task_alt", "chain_task"),
                        ("Responses", "forum", "chain_response"),
                        ("Fulfilments", "handyman", "chain_fulfilment"),
                        ("Outbox", "outbox", "chain_transaction"),
                        ("Deposits", "move_to_inbox", "chain_deposit"),
                        ("Task orders", "shopping_cart", "chain_taskorder"),
                        ("Source orders", "add_business", "chain_sourceorder"),
                        ("Pins", "push_pin", "chain_pin"),
                        ("Published roots", "account_tree", "chain_publishedroot"),
                        ("Events", "list_alt", "chain_log"),
                        ("Reconciliation", "fact_check", "chain_reconciliation"),
                    ],
                ),
                (
                    "Money",
                    [
                        ("Accounts", "account_balance_wallet", "clients_account"),
                        ("Transfers", "swap_horiz", "clients_transfer"),
                        ("Holds", "lock_clock", "clients_hold"),
                        ("Terms", "contract", "clients_terms"),
                        ("Trial balance", "balance", "clients_account", "trial_balance"),
                        ("Audit", "history", "clients_auditentry"),
                    ],
                ),
                (
                    "People",
                    [
                        ("Clients", "group", "clients_client"),
                        ("API keys", "key", "clients_apikey"),
                        ("Logins", "devices", "clients_token"),
                        ("Hardware records", "memory", "gpus_gpu"),
                    ],
                ),
            )
        ],
    },
}
SWAGGER_USE_COMPAT_RENDERERS = False
SWAGGER_SETTINGS = {
    "DEFAULT_INFO": "marketplace.swagger.INFO",
    "DEFAULT_AUTO_SCHEMA_CLASS": "marketplace.swagger.AutoSchema",
    "USE_SESSION_AUTH": True,
    "LOGIN_URL": "/admin/login/",
    "LOGOUT_URL": "/admin/logout/",
    "SECURITY_DEFINITIONS": {
        "Basic": {"type": "basic"},
        "Token": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Token <device token>` or `Bearer <API key>`",
        },
    },
}

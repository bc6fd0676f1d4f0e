"""What the user reads when the marketplace is up: addresses, credentials, commands that work as printed."""

from collections.abc import Mapping

from marketplace.embedded.demo import CHAT_MODEL
from marketplace.embedded.home import Home

Credentials = Mapping[str, Mapping[str, str]]


def show(url: str, credentials: Credentials, home: Home, *, with_secrets: bool) -> None:
    print(_ADDRESSES.format(url=url))
    if with_secrets:
        show_credentials(credentials)
    print(_SNIPPETS.format(url=url, key=credentials["consumer"]["api_key"], model=CHAT_MODEL))
    print(
        f"Logs are in {home.logs}. `scripts/run credentials` shows the passwords. Ctrl-C stops everything.",
        flush=True,
    )


def show_credentials(credentials: Credentials) -> None:
    """Passwords are those of the first start, unless somebody has changed them since."""
    for name, account in credentials.items():
        print(f"  {name:9} {account['email']}, password {account['password']}")
        if "api_key" in account:
            print(f"            API key {account['api_key']}")
    print(flush=True)


_ADDRESSES = """
  API       {url}/v1
  Swagger   {url}/swagger/
  Admin     {url}/admin/
"""

_SNIPPETS = """curl:

  curl -N {url}/v1/chat/completions -H "Authorization: Bearer {key}" -H "Content-Type: application/json" \\
    -d '{{"model": "{model}", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'

Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.chat.completions.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}])
  print(answer.choices[0].message.content)
"""

"""The README names every setting that there is."""

import re

from marketplace.embedded.home import PROJECT

# Named one by one in the README, made in a loop in the settings.
THROTTLES = {
    f"THROTTLE_{scope}"
    for scope in (
        *("LOGIN", "REGISTER", "RESET", "TOKEN", "TRANSFER", "WALLET", "BROKER"),
        *("PIN", "CHAIN"),
    )
}


def test_the_readme_names_every_setting():
    settings = (PROJECT / "marketplace" / "settings.py").read_text()
    names = set(re.findall(r'(?:env\.\w+|_seconds)\(\s*"([A-Z_]+)"', settings)) | THROTTLES
    readme = (PROJECT / "README.md").read_text()
    assert len(names) > 40
    assert sorted(name for name in names if f"`{name}`" not in readme) == []

"""Nothing here is collected where there is no titanoboa: these tests have an environment of their own."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("boa") else ["*"]

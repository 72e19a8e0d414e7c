"""What main.py and the tests use of config_flags."""

from typing import Any

def DEFINE_config_file(
    name: str, default: str | None = ..., help_string: str = ..., flag_values: Any = ...
) -> Any: ...

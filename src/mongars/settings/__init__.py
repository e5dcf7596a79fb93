"""The only package that reads environment variables: their names, meanings, defaults and validation.

Values come from the process environment or else from `.env` in the working directory. They are read
once; the rest of the program receives the frozen configuration objects made here.
"""

from mongars.settings.configuration import Settings
from mongars.settings.environment import Environment
from mongars.settings.reading import child_environment, load_settings, passed_on

__all__ = ["Environment", "Settings", "child_environment", "load_settings", "passed_on"]

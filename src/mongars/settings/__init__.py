"""The only reader of the environment: every variable, its meaning, its default, its check.

Values come from the process environment and, below it, from `.env` in the working directory. They
are read once; the rest of the program receives the frozen configuration objects made here.
"""

from mongars.settings.configuration import Settings
from mongars.settings.environment import Environment
from mongars.settings.reading import child_environment, load_settings, passed_on

__all__ = ["Environment", "Settings", "child_environment", "load_settings", "passed_on"]

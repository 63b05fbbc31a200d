"""What an engine process may see of the program that starts it."""

from collections.abc import Mapping

_SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def engine_environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Our environment without credentials, and without a network that it does not need."""
    kept = {name: value for name, value in ours.items() if not name.startswith("BITSMITH_") and name not in _SECRETS}
    # The folder it works in holds files from strangers: nothing is imported from there.
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}

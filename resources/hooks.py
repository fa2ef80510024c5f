"""Who is told when something fails or moves: the log always, and a webhook where ``RKD_HOOK_URL`` names one.

A webhook's address is often its password. So the graph's configuration holds the variable's name (``EnvVar``), which
is all that the UI shows, and logs name its host only.
"""

import json
import logging
import time
from typing import Any

import dagster as dg
import requests

from rkd_pipeline import __version__
from rkd_pipeline.addresses import shown
from rkd_pipeline.settings import Settings

_log = logging.getLogger("rkd_pipeline.hooks")


class Hook(dg.ConfigurableResource):
    """Tells of failures and moves.

    The webhook gets a POST with a JSON object: ``text`` (for people; what chat services show), ``event`` and its facts.
    """

    address: str = ""
    timeout_seconds: float = 10.0
    attempts: int = 3
    pause_seconds: float = 2.0

    @classmethod
    def of(cls, settings: Settings) -> "Hook":
        """As the settings ask for; the address is resolved from the environment when it is needed."""
        # A variable that is not set cannot be resolved: then there is no webhook.
        return cls(address=dg.EnvVar("RKD_HOOK_URL")) if settings.hook_url.get_secret_value() else cls()

    def tell(self, event: str, text: str, facts: dict[str, Any]) -> bool:
        """Log it, and send it where there is a webhook. False where the webhook did not take it; never raises."""
        _log.warning("%s: %s", event, text)
        if not self.address:
            return True
        body = json.dumps({"event": event, "text": text, "version": __version__, **facts}, default=str)
        problem = "no attempt"
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause_seconds * attempt)
            problem = self._post(body)
            if not problem:
                return True
        _log.error("webhook %s did not take %s: %s", shown(self.address), event, problem)
        return False

    def _post(self, body: str) -> str:
        """What went wrong, or nothing. Exceptions are named by their class: their text quotes the address."""
        try:
            headers = {"Content-Type": "application/json"}
            # No redirect: what is told goes where the user said, and nowhere else.
            reply = requests.post(
                self.address, body, headers=headers, timeout=self.timeout_seconds, allow_redirects=False
            )
        except requests.RequestException as error:
            return type(error).__name__
        return "" if reply.status_code < 300 else f"it answered {reply.status_code}"

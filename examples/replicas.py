"""Several replicas of a model behind one address, by Ray Serve (pip install "ray[serve]").

    export LIMNER_MODEL=limner-tiny LIMNER_REPLICAS=2 PYTHONPATH=$PWD/examples
    serve run replicas:app

Replicas find this file by PYTHONPATH; docs/serving.md says what to do where Ray does not start. A conversation stays
with one replica, whose cache knows it: the header `x-session-id` names it. A replica that dies is started anew, and the
others answer meanwhile.
"""

import os

from fastapi import FastAPI
from ray import serve
from ray.serve.config import RequestRouterConfig


def replica() -> FastAPI:
    """What one replica serves: all that `limner serve` does."""
    from limner.cli.serve import application

    keys = [key for key in os.environ.get("LIMNER_API_KEYS", "").split(",") if key]
    return application(os.environ.get("LIMNER_MODEL", "limner-tiny"), api_keys=keys)


app = serve.deployment(
    serve.ingress(replica)(),
    name="limner",
    num_replicas=int(os.environ.get("LIMNER_REPLICAS", "2")),
    # More than a replica runs and lets wait: it is the one that says 429.
    max_ongoing_requests=128,
    graceful_shutdown_timeout_s=60,
    request_router_config=RequestRouterConfig(
        request_router_class="ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
    ),
).bind()

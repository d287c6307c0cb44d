"""Validates custom resources with generated models of their definitions.

Runs in the environment of scripts/requirements-models.txt. Reads objects from standard input, and
writes for each object its serialization by the model or the validation error. A field that the
model does not know is missing from the serialization."""

import json
import sys

from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from pydantic import ValidationError

MODELS = {"cert-manager.io/v1": cert_manager, "monitoring.coreos.com/v1": prometheus_operator}


def round_trip(manifest):
    model = getattr(MODELS[manifest["apiVersion"]], manifest["kind"])
    try:
        parsed = model.model_validate(manifest)
    except ValidationError as error:
        return str(error)
    return parsed.model_dump(mode="json", by_alias=True, exclude_unset=True)


json.dump([round_trip(manifest) for manifest in json.load(sys.stdin)], sys.stdout)

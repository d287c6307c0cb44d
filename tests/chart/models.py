"""Run by the Python of scripts/requirements-models.txt: reads objects for others' operators as the models of those, and writes them again,
or what is wrong with them. What a model does not know is not written."""

import json
import sys

from cloudcoil.models.cert_manager import v1 as cert_manager
from cloudcoil.models.prometheus_operator import v1 as prometheus_operator
from pydantic import ValidationError

MODELS = {"cert-manager.io/v1": cert_manager, "monitoring.coreos.com/v1": prometheus_operator}


def again(made):
    model = getattr(MODELS[made["apiVersion"]], made["kind"])
    try:
        return model.model_validate(made).model_dump(mode="json", by_alias=True, exclude_unset=True)
    except ValidationError as error:
        return str(error)


json.dump([again(made) for made in json.load(sys.stdin)], sys.stdout)

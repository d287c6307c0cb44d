"""Invalid values are rejected before the installation, with an error that names the value."""

import helm_python as helm
import pytest
from chart import CHART, render, values_for

NAMED = {"name": "something"}
ISSUER = {"issuer": "https://a.example", "audience": "x", "keys": "https://a.example/keys",
          "roles": {"tenant_admin": ["a"]}}
GROUP = {"group_id": "a", "max_access_level": "ADMIN"}
SCHEMA_ERRORS = [
    # Values file, overrides, and text of the error.
    ("sqlite", {"replicaCount": 2}, "/replicaCount"),
    ("sqlite", {"autoscaling__enabled": True}, "/autoscaling/enabled"),
    ("sqlite", {"migrations__mode": "job"}, "/migrations/mode"),
    ("sqlite", {"database__existingSecret": NAMED}, "/database/existingSecret/name"),
    ("minimal", {"replicaCount": 0}, "/replicaCount"),
    ("minimal", {"replicaCount": "3"}, "/replicaCount"),
    ("minimal", {"image__repository": ""}, "/image/repository"),
    ("minimal", {"image__digest": "latest"}, "/image/digest"),
    ("minimal", {"database__existingSecret": {"name": ""}}, "/database/existingSecret/name"),
    ("minimal", {"eventKey": {"secretName": ""}}, "/eventKey/secretName"),
    ("minimal", {"database__type": "mysql"}, "/database/type"),
    ("minimal", {"database__url": "postgres://u:p@h/d"}, "additional properties 'url' not allowed"),
    ("minimal", {"database__tls": {"mode": "verify-full"}}, "/database/tls/caSecretName"),
    ("minimal", {"tls__secret": {"name": ""}}, "/tls/secret/name"),
    ("minimal", {"tls__clientCa": {"name": ""}}, "/tls/clientCa/name"),
    ("minimal", {"tls__source": "certManager"}, "/tls/certManager/issuerRef/name"),
    ("cloudnativepg", {"tls__secret": NAMED}, "/tls/secret/name"),
    ("minimal", {"tls__source": "none"}, "/config/insecure"),
    ("minimal", {"config": {"insecure": True}}, "/config/insecure"),
    ("mesh", {"tls": {"source": "none", "clientCa": NAMED}}, "/tls/clientCa/name"),
    ("mesh", {"config": {"insecure": False}}, "/config/insecure"),
    ("mesh", {"tests": {"enabled": True, "secretName": "a", "caName": "b"}}, "/tests/enabled"),
    ("minimal", {"auth": {}}, "/auth"),
    ("minimal", {"auth": {"certificates": {}, "issuers": []}}, "/auth"),
    ("minimal", {"auth__certificates": {"tenant_admin": ["a.example"]}},
     "additional properties 'tenant_admin' not allowed"),
    ("minimal", {"auth__certificates": {"gateway": ["*.example"]}}, "/auth/certificates/gateway/0"),
    ("minimal", {"auth__issuers": [{**ISSUER, "key": "x"}]},
     "additional properties 'key' not allowed"),
    ("minimal", {"auth__issuers": [{**ISSUER, "keys": "http://a.example/keys"}]},
     "/auth/issuers/0/keys"),
    ("minimal", {"auth__issuers": [{**ISSUER, "roles": {"portal": ["a"]}}]},
     "additional properties 'portal' not allowed"),
    ("minimal", {"auth__trustPortalAssertion": True}, "'portal'"),
    ("minimal", {"config": {"maxStaleness": "100ms"}}, "/config/maxStaleness"),
    ("minimal", {"config": {"maxStaleness": "6m"}}, "/config/maxStaleness"),
    ("minimal", {"config": {"maxStaleness": 2}}, "/config/maxStaleness"),
    ("minimal", {"config": {"drainTimeoutSeconds": 3601}}, "/config/drainTimeoutSeconds"),
    ("minimal", {"config": {"verifyInterval": "1d"}}, "/config/verifyInterval"),
    ("minimal", {"config": {"otlpEndpoint": "http://me:secret@collector:4317"}},
     "/config/otlpEndpoint"),
    ("minimal", {"config": {"traceRatio": "2"}}, "/config/traceRatio"),
    ("minimal", {"config": {"limits": {"calls": 1}}}, "additional properties 'calls' not allowed"),
    ("minimal", {"config": {"limits": {"connections": 0}}}, "/config/limits/connections"),
    ("minimal", {"config": {"policy": {"groups": [{**GROUP, "max_access_level": "ROOT"}]}}},
     "/config/policy/groups/0"),
    ("minimal", {"config": {"policy": {"groups": [{**GROUP, "description": "two\nlines"}]}}},
     "/config/policy/groups/0/description"),
    ("minimal", {"securityContext": {"runAsUser": 0}}, "/securityContext/runAsUser"),
    ("minimal", {"securityContext": {"privileged": True}},
     "additional properties 'privileged' not allowed"),
    ("minimal", {"service": {"grpc": {"port": 443}}}, "/service/grpc/port"),
    ("minimal", {"podDisruptionBudget": {"maxUnavailable": 0}},
     "/podDisruptionBudget/maxUnavailable"),
    ("minimal", {"extraEnv": [{"name": "SUPPORT_ACCESS_LISTEN", "value": "0.0.0.0:1"}]},
     "/extraEnv/0/name"),
    ("minimal", {"extraVolumes": [{"name": "tls", "emptyDir": {}}]}, "/extraVolumes/0/name"),
    ("minimal", {"tests": {"enabled": True}}, "/tests/secretName"),
    ("minimal", {"prometheusRule": {"sidecarJob": 'a"b'}}, "/prometheusRule/sidecarJob"),
    ("minimal", {"prometheusRule": {"certificateDays": {"critical": 0}}},
     "/prometheusRule/certificateDays/critical"),
    ("minimal", {"dashboard": {"labels": {"grafana_dashboard": 1}}},
     "/dashboard/labels/grafana_dashboard"),
    ("minimal", {"networkPolicy": {"collectorPort": 4317}},
     "additional properties 'collectorPort' not allowed"),
    ("minimal", {"networkPolicy": {"dnsPorts": []}}, "/networkPolicy/dnsPorts"),
    ("minimal", {"prometheusRule": {"enabled": True}}, "/serviceMonitor/enabled"),
    ("minimal", {"fullnameOverride": "Gate.keeper"}, "/fullnameOverride"),
    ("minimal", {"fullnameOverride": "a" * 51}, "/fullnameOverride"),
    ("minimal", {"replicas": 3}, "additional properties 'replicas' not allowed"),
    ("sidecar", {"sidecar__gatewayUsers": []}, "/sidecar/gatewayUsers"),
    ("sidecar", {"sidecar__upstreams": []}, "/sidecar/upstreams"),
    ("sidecar", {"sidecar__upstreams": ["http://access.vendor.svc:50051"]}, "/sidecar/upstreams/0"),
]
TEMPLATE_ERRORS = [
    ("configuration", {"auth__certificates": {"portal": ["a.example"], "gateway": ["a.example"]}},
     "auth.certificates: a.example is bound to both portal and gateway"),
    ("minimal", {"auth__issuers": [ISSUER, {**ISSUER, "issuer": "https://b.example"}]},
     "auth.issuers: https://a.example needs tenants"),
    # Null removes a default.
    ("autoscaling", {"resources": {"requests": {"cpu": None}}},
     "resources.requests.cpu: required with autoscaling"),
    ("autoscaling", {"resources": {"requests": {"cpu": 0}}},
     "resources.requests.cpu: required with autoscaling"),
    ("minimal", {"antiAffinity": "hard", "replicaCount": 1}, "antiAffinity: must not be hard"),
    ("autoscaling", {"antiAffinity": "hard", "autoscaling__minReplicas": 1},
     "antiAffinity: must not be hard"),
    ("minimal", {"securityContext": {"fsGroup": None}},
     "securityContext.fsGroup: must be set with securityContext.runAsUser (65532)"),
    ("minimal", {"nameOverride": "a.b"}, 'give the name "access-a.b"'),
    ("monitoring", {"serviceMonitor__interval": "31s"},
     "serviceMonitor.interval: must be 1s to 30s"),
    ("monitoring", {"serviceMonitor__interval": "1m"},
     "serviceMonitor.interval: must be 1s to 30s"),
    ("monitoring", {"prometheusRule__certificateDays": {"warning": 2, "critical": 2}},
     "prometheusRule.certificateDays.critical: must be less than warning (2), but is 2"),
]
# Values close to those above that are accepted.
ACCEPTED = [
    ("autoscaling", {"resources": {"requests": {"cpu": None}, "limits": {"cpu": 1}}}),
    ("sqlite", {"antiAffinity": "hard"}),
    ("minimal", {"securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}),
    ("minimal", {"serviceMonitor": {"enabled": True, "interval": "2m", "scrapeTimeout": "1m59s"}}),
    ("monitoring", {"serviceMonitor__interval": "30s", "serviceMonitor__scrapeTimeout": "30s"}),
]


@pytest.mark.parametrize(("base", "overrides", "message"), SCHEMA_ERRORS, ids=str)
def test_schema_rejects_invalid_values(base, overrides, message):
    chart_values = values_for(base, **overrides)
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as error:
        chart.validate_schema(chart_values)
    assert message in str(error.value)


@pytest.mark.parametrize(("base", "overrides", "message"), TEMPLATE_ERRORS, ids=str)
def test_templates_reject_invalid_combinations(base, overrides, message):
    with pytest.raises(helm.HelmRenderError) as error:
        render(values_for(base, **overrides))
    assert message in str(error.value)


@pytest.mark.parametrize(("base", "overrides"), ACCEPTED, ids=str)
def test_valid_combinations_are_accepted(base, overrides):
    assert render(values_for(base, **overrides))


def test_defaults_alone_report_all_required_values():
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as error:
        chart.validate_schema({})
    required = ("/image/repository", "/auth", "/tls/secret/name", "/database/existingSecret/name",
                "/eventKey/secretName")
    assert [path for path in required if path not in str(error.value)] == []


def test_disabled_chart_needs_no_values():
    assert render({"enabled": False}) == {}

"""Values that cannot work are refused before anything is installed, with a message that says where."""

import helm_python as helm
import pytest
from chart import CHART, render, values

GIVEN = {"name": "something"}
ISSUER = {"issuer": "https://a.example", "audience": "x", "keys": "https://a.example/keys", "roles": {"tenant_admin": ["a"]}}
SCHEMA = [
    # What is changed, on what, and what the message must say.
    ("sqlite", {"replicaCount": 2}, "/replicaCount"),
    ("sqlite", {"autoscaling__enabled": True}, "/autoscaling/enabled"),
    ("sqlite", {"migrations__mode": "job"}, "/migrations/mode"),
    ("sqlite", {"database__existingSecret": GIVEN}, "/database/existingSecret/name"),
    ("minimal", {"replicaCount": 0}, "/replicaCount"),
    ("minimal", {"replicaCount": "3"}, "/replicaCount"),
    ("minimal", {"image__repository": ""}, "/image/repository"),
    ("minimal", {"image__digest": "latest"}, "/image/digest"),
    ("minimal", {"database__existingSecret": {"name": ""}}, "/database/existingSecret/name"),
    ("minimal", {"database__type": "mysql"}, "/database/type"),
    ("minimal", {"database__url": "postgres://u:p@h/d"}, "additional properties 'url' not allowed"),
    ("minimal", {"database__tls": {"mode": "verify-full"}}, "/database/tls/caSecretName"),
    ("minimal", {"tls__secret": {"name": ""}}, "/tls/secret/name"),
    ("minimal", {"tls__clientCa": {"name": ""}}, "/tls/clientCa/name"),
    ("minimal", {"tls__source": "certManager"}, "/tls/certManager/issuerRef/name"),
    ("cloudnativepg", {"tls__secret": GIVEN}, "/tls/secret/name"),
    ("minimal", {"tls__source": "none"}, "/config/insecure"),
    ("minimal", {"config": {"insecure": True}}, "/config/insecure"),
    ("mesh", {"tls": {"source": "none", "clientCa": GIVEN}}, "/tls/clientCa/name"),
    ("mesh", {"config": {"insecure": False}}, "/config/insecure"),
    ("mesh", {"tests": {"enabled": True, "secretName": "a", "caName": "b"}}, "/tests/enabled"),
    ("minimal", {"auth": {}}, "/auth"),
    ("minimal", {"auth": {"certificates": {}, "issuers": []}}, "/auth"),
    ("minimal", {"auth__certificates": {"tenant_admin": ["a.example"]}}, "additional properties 'tenant_admin' not allowed"),
    ("minimal", {"auth__certificates": {"gateway": ["*.example"]}}, "/auth/certificates/gateway/0"),
    ("minimal", {"auth__issuers": [{**ISSUER, "key": "x"}]}, "additional properties 'key' not allowed"),
    ("minimal", {"auth__issuers": [{**ISSUER, "keys": "http://a.example/keys"}]}, "/auth/issuers/0/keys"),
    ("minimal", {"auth__issuers": [{**ISSUER, "roles": {"portal": ["a"]}}]}, "additional properties 'portal' not allowed"),
    ("minimal", {"auth__trustPortalAssertion": True}, "'portal'"),
    ("minimal", {"config": {"maxStaleness": "100ms"}}, "/config/maxStaleness"),
    ("minimal", {"config": {"maxStaleness": "6m"}}, "/config/maxStaleness"),
    ("minimal", {"config": {"maxStaleness": 2}}, "/config/maxStaleness"),
    ("minimal", {"config": {"drainTimeoutSeconds": 3601}}, "/config/drainTimeoutSeconds"),
    ("minimal", {"config": {"verifyInterval": "1d"}}, "/config/verifyInterval"),
    ("minimal", {"config": {"otlpEndpoint": "http://me:secret@collector:4317"}}, "/config/otlpEndpoint"),
    ("minimal", {"config": {"traceRatio": "2"}}, "/config/traceRatio"),
    ("minimal", {"config": {"limits": {"calls": 1}}}, "additional properties 'calls' not allowed"),
    ("minimal", {"config": {"limits": {"connections": 0}}}, "/config/limits/connections"),
    ("minimal", {"config": {"policy": {"groups": [{"group_id": "a", "max_access_level": "ROOT"}]}}}, "/config/policy/groups/0"),
    ("minimal", {"config": {"policy": {"groups": [{"group_id": "a", "max_access_level": "ADMIN", "description": "two\nlines"}]}}},
     "/config/policy/groups/0/description"),
    ("minimal", {"securityContext": {"runAsUser": 0}}, "/securityContext/runAsUser"),
    ("minimal", {"securityContext": {"privileged": True}}, "additional properties 'privileged' not allowed"),
    ("minimal", {"service": {"grpc": {"port": 443}}}, "/service/grpc/port"),
    ("minimal", {"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
    ("minimal", {"extraEnv": [{"name": "SUPPORT_ACCESS_LISTEN", "value": "0.0.0.0:1"}]}, "/extraEnv/0/name"),
    ("minimal", {"extraVolumes": [{"name": "tls", "emptyDir": {}}]}, "/extraVolumes/0/name"),
    ("minimal", {"tests": {"enabled": True}}, "/tests/secretName"),
    ("minimal", {"prometheusRule": {"sidecarJob": 'a"b'}}, "/prometheusRule/sidecarJob"),
    ("minimal", {"prometheusRule": {"certificateDays": {"critical": 0}}}, "/prometheusRule/certificateDays/critical"),
    ("minimal", {"dashboard": {"labels": {"grafana_dashboard": 1}}}, "/dashboard/labels/grafana_dashboard"),
    ("minimal", {"networkPolicy": {"collectorPort": 4317}}, "additional properties 'collectorPort' not allowed"),
    ("minimal", {"networkPolicy": {"dnsPorts": []}}, "/networkPolicy/dnsPorts"),
    ("minimal", {"prometheusRule": {"enabled": True}}, "/serviceMonitor/enabled"),
    ("minimal", {"fullnameOverride": "Gate.keeper"}, "/fullnameOverride"),
    ("minimal", {"fullnameOverride": "a" * 51}, "/fullnameOverride"),
    ("minimal", {"replicas": 3}, "additional properties 'replicas' not allowed"),
    ("sidecar", {"sidecar__gatewayUsers": []}, "/sidecar/gatewayUsers"),
    ("sidecar", {"sidecar__upstreams": []}, "/sidecar/upstreams"),
    ("sidecar", {"sidecar__upstreams": ["http://access.vendor.svc:50051"]}, "/sidecar/upstreams/0"),
]
TEMPLATES = [
    ("configuration", {"auth__certificates": {"portal": ["a.example"], "gateway": ["a.example"]}},
     "auth.certificates binds a.example to both portal and gateway"),
    ("minimal", {"auth__issuers": [ISSUER, {**ISSUER, "issuer": "https://b.example"}]},
     "auth.issuers needs tenants for https://a.example"),
    ("autoscaling", {"autoscaling": {"enabled": True, "minReplicas": 5, "maxReplicas": 2}},
     "autoscaling.minReplicas is 5, but autoscaling.maxReplicas is 2"),
    # Null takes a default away.
    ("autoscaling", {"resources": {"requests": {"cpu": None}}}, "autoscaling needs resources.requests.cpu"),
    ("autoscaling", {"resources": {"requests": {"cpu": 0}}}, "autoscaling needs resources.requests.cpu"),
    ("minimal", {"antiAffinity": "hard", "replicaCount": 1}, "antiAffinity is hard"),
    ("autoscaling", {"antiAffinity": "hard", "autoscaling__minReplicas": 1}, "antiAffinity is hard"),
    ("minimal", {"resources": {"requests": {"memory": "1Gi"}}}, "resources.requests.memory is 1Gi, but resources.limits.memory is 512Mi"),
    ("minimal", {"resources": {"requests": {"cpu": 1}, "limits": {"cpu": "900m"}}}, "resources.requests.cpu is 1, but"),
    ("minimal", {"resources": {"limits": {"memory": 200000000}}}, "resources.requests.memory is 256Mi"),
    ("migration-job", {"migrations__job__resources": {"limits": {"memory": "32M"}}}, "migrations.job.resources.requests.memory is 64Mi"),
    ("minimal", {"securityContext": {"fsGroup": None}}, "securityContext.fsGroup is null, but securityContext.runAsUser is 65532"),
    ("minimal", {"nameOverride": "a.b"}, 'make the name "access-a.b"'),
    ("monitoring", {"serviceMonitor__scrapeTimeout": "15001ms"}, "serviceMonitor.scrapeTimeout is 15001ms, longer than"),
    ("monitoring", {"serviceMonitor__interval": "1m"}, "serviceMonitor.interval is 1m, but the rules"),
    ("monitoring", {"prometheusRule__certificateDays": {"warning": 2, "critical": 2}}, "certificateDays.critical is 2, but it must be less"),
    ("cloudnativepg", {"tls__certManager__duration": "720h"}, "tls.certManager.renewBefore is 720h, but it must be less than duration"),
    ("cloudnativepg", {"tls__certManager__renewBefore": "336h", "serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}},
     "certificateDays.warning is 14 days, but certificates are renewed only 336h before they end"),
]
POSSIBLE = [
    # What is just not refused.
    ("autoscaling", {"resources": {"requests": {"cpu": None}, "limits": {"cpu": 1}}}),
    ("sqlite", {"antiAffinity": "hard"}),
    ("minimal", {"resources": {"requests": {"cpu": "1000m", "memory": "0.5Gi"}, "limits": {"cpu": 1, "memory": 536870912}}}),
    ("minimal", {"securityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}),
    ("minimal", {"serviceMonitor": {"enabled": True, "interval": "2m", "scrapeTimeout": "1m59s"}}),
    ("monitoring", {"serviceMonitor__interval": "30s", "serviceMonitor__scrapeTimeout": "30s"}),
    ("cloudnativepg", {"tls__certManager__renewBefore": "336h1s", "serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}),
    ("cloudnativepg", {"tls__certManager__duration": "24h", "tls__certManager__renewBefore": "8h"}),
]


@pytest.mark.parametrize(("base", "changes", "message"), SCHEMA, ids=str)
def test_the_schema_refuses(base, changes, message):
    given = values(base, **changes)
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as refusal:
        chart.validate_schema(given)
    assert message in str(refusal.value)


@pytest.mark.parametrize(("base", "changes", "message"), TEMPLATES, ids=str)
def test_templates_refuse_what_a_schema_cannot(base, changes, message):
    with pytest.raises(helm.HelmRenderError) as refusal:
        render(values(base, **changes))
    assert message in str(refusal.value)


@pytest.mark.parametrize(("base", "changes"), POSSIBLE, ids=str)
def test_what_can_work_is_not_refused(base, changes):
    assert render(values(base, **changes))


def test_defaults_alone_say_what_is_missing():
    with helm.Chart.load(CHART) as chart, pytest.raises(helm.HelmValuesError) as refusal:
        chart.validate_schema({})
    for path in ("/image/repository", "/auth", "/tls/secret/name", "/database/existingSecret/name"):
        assert path in str(refusal.value)


def test_whoever_wants_only_the_sidecar_must_say_nothing_else():
    assert render({"enabled": False}) == {}

//! The metrics of a process.

use std::time::Duration;

use support_access::{
    api::metrics::{Metrics, Readings, ReplicaReadings, code_name},
    domain::{Reason, Time},
    node::Gauges,
};
use tonic::Code;

fn metrics() -> Metrics {
    let replica =
        ReplicaReadings { sweep_lag: Duration::from_millis(1_500), ..ReplicaReadings::default() };
    let node = Gauges {
        live_grants: 3,
        locks: 1,
        forgeries: 2,
        revision: 7,
        snapshot_bytes: 4_096,
        tenants: 2,
        lease_age: Some(Duration::from_millis(250)),
        followers: 3,
    };
    let readings = move || Readings {
        node,
        certificates: vec![("tls_certificate", Time::UNIX_EPOCH + Duration::from_secs(9))],
        replica: Some(replica),
        ..Readings::default()
    };
    Metrics::new(readings)
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line:?} is not in:\n{text}");
}

#[test]
fn each_reason_has_its_own_counter() {
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, index);
    }
    let metrics = metrics();
    for reason in Reason::ALL {
        metrics.check(reason);
    }
    metrics.check(Reason::Revoked);
    let text = metrics.encode().unwrap();
    assert_has(&text, r#"support_access_checks_total{decision="ALLOWED",reason="GRANT_ACTIVE"} 1"#);
    assert_has(&text, r#"support_access_checks_total{decision="DENIED",reason="REVOKED"} 2"#);
    assert_has(&text, r#"support_access_checks_total{decision="DENIED",reason="STALE"} 1"#);
}

#[test]
fn state_is_read_for_each_scrape() {
    let text = metrics().encode().unwrap();
    assert_has(&text, "support_access_live_grants 3");
    assert_has(&text, "support_access_forgeries 2");
    assert_has(&text, "support_access_revision 7");
    assert_has(&text, "support_access_snapshot_bytes 4096");
    assert_has(&text, "support_access_tenants 2");
    assert_has(&text, "support_access_sweep_lag_seconds 1.5");
    let certificate = "support_access_certificate_expiration_timestamp_seconds";
    assert_has(&text, &format!("{certificate}{{certificate=\"tls_certificate\"}} 9.0"));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn rpcs_are_counted_by_method_and_code() {
    let metrics = metrics();
    let check = metrics.rpc_started("/supportaccess.v1.SupportAccess/CheckAccess");
    metrics.rpc_ended(check, Code::Ok, Duration::from_micros(70));
    metrics.rpc_started("/grpc.health.v1.Health/Watch");
    let reflection =
        metrics.rpc_started("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo");
    metrics.rpc_ended(reflection, Code::Cancelled, Duration::from_mins(1));
    let text = metrics.encode().unwrap();
    let labels = r#"service="supportaccess.v1.SupportAccess",method="CheckAccess""#;
    assert_has(&text, &format!("support_access_rpcs_total{{{labels},code=\"OK\"}} 1"));
    let bucket =
        |le: &str| format!("support_access_rpc_duration_seconds_bucket{{le=\"{le}\",{labels}}}");
    assert_has(&text, &format!("{} 0", bucket("0.00005")));
    assert_has(&text, &format!("{} 1", bucket("0.0001")));
    let in_flight = format!("support_access_rpcs_in_flight{{{labels}}} 0");
    assert_has(&text, &in_flight);
    let watch = r#"service="grpc.health.v1.Health",method="Watch""#;
    assert_has(&text, &format!("support_access_rpcs_in_flight{{{watch}}} 1"));
    assert_ne!(reflection, 0);
}

#[test]
fn unknown_methods_share_one_label() {
    let metrics = metrics();
    for path in ["/made.up.Service/Method", "/", "", "/supportaccess.v1.SupportAccess/checkaccess"]
    {
        let index = metrics.rpc_started(path);
        metrics.rpc_ended(index, Code::Unimplemented, Duration::ZERO);
    }
    let text = metrics.encode().unwrap();
    assert_has(
        &text,
        "support_access_rpcs_total{service=\"unknown\",method=\"unknown\",\
         code=\"UNIMPLEMENTED\"} 4",
    );
}

#[test]
fn codes_have_the_names_of_grpc() {
    for number in 0..17 {
        let code = Code::from_i32(number);
        assert_eq!(format!("{code:?}").to_uppercase(), code_name(code).replace('_', ""));
    }
}

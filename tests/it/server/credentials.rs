//! The URLs at which credentials are exposed.

use support_access::api::credentials::is_exposed;

#[test]
fn plain_http_is_exposed_beyond_this_host() {
    for url in
        ["http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1/", "unix:/a", "https://a"]
    {
        assert!(!is_exposed(url), "{url}");
    }
    for url in [
        "http://replica:50051",
        "http://10.0.0.1:1",
        "http://[2001:db8::1]:1",
        "http://localhost.example",
    ] {
        assert!(is_exposed(url), "{url}");
    }
}

//! Certificates, keys and authorities are taken anew when their files change, and no call fails of it.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use support_access::api::proto::v1::support_access_client::SupportAccessClient;
use tokio::task::JoinSet;

use super::{GATEWAY, World, authority::Authority, issuer::Signer};
use crate::harness::{a_check, eventually};

/// Calls, each on a connection of its own, until told to stop: how many there were, all of which were answered.
struct Load {
    calls: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
}

impl Load {
    fn on(world: &Arc<World>) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut calls = JoinSet::new();
        for _ in 0..4 {
            let (world, stop, answered) =
                (Arc::clone(world), Arc::clone(&stop), Arc::clone(&answered));
            calls.spawn(async move {
                let mut count = 0;
                let mut kept = world.checks(Some(GATEWAY)).await;
                while !stop.load(Ordering::SeqCst) {
                    kept.check_access(a_check()).await.unwrap();
                    world.checks(Some(GATEWAY)).await.check_access(a_check()).await.unwrap();
                    count += 2;
                    answered.fetch_add(2, Ordering::SeqCst);
                }
                count
            });
        }
        Self { calls, stop, answered }
    }

    async fn some_more(&self) {
        let before = self.answered.load(Ordering::SeqCst);
        eventually(async || self.answered.load(Ordering::SeqCst) > before + 40).await;
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.calls.join_all().await.into_iter().sum()
    }
}

/// The server's certificate, as a new connection sees it.
async fn shown(world: &World) -> Vec<u8> {
    use tokio_rustls::rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, pem::PemObject},
    };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(world.authority.pem().as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = world.url().replace("https://localhost", "127.0.0.1");
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_and_key_are_taken_under_load_and_no_call_fails() {
    let world = Arc::new(World::new().await);
    let load = Load::on(&world);
    load.some_more().await;
    for round in 0..3 {
        let before = shown(&world).await;
        let (certificate, key) = world.authority.server();
        // One after the other, with a time in between in which they do not fit.
        fs::write(&world.files.certificate, certificate).unwrap();
        load.some_more().await;
        fs::write(&world.files.key, key).unwrap();
        eventually(async || shown(&world).await != before).await;
        load.some_more().await;
        println!("round {round}: the new certificate is shown");
    }
    println!("{} calls, none failed", load.end().await);
}

#[tokio::test]
async fn broken_files_change_nothing() {
    let world = World::new().await;
    let before = shown(&world).await;
    fs::write(&world.files.key, "no key").unwrap();
    fs::write(&world.files.client_ca, "").unwrap();
    fs::remove_file(&world.files.certificate).unwrap();
    // Long enough for them to be looked at.
    for _ in 0..3 {
        tokio::time::sleep(std::time::Duration::from_millis(700)).await; // it looks every second
        assert_eq!(shown(&world).await, before);
    }
    assert!(world.checks(Some(GATEWAY)).await.check_access(a_check()).await.is_ok());
}

#[tokio::test]
async fn an_authority_that_is_dropped_certifies_nobody_any_more() {
    let world = World::new().await;
    let old = world.authority.client(GATEWAY);
    let connects = async |shown: (String, String)| match world.connect(Some(shown)).await {
        Ok(channel) => {
            let client = SupportAccessClient::new(channel);
            client.clone().check_access(a_check()).await.is_ok()
        }
        Err(_) => false,
    };
    assert!(connects(old.clone()).await);
    let channel = world.connect(Some(old.clone())).await.unwrap();
    let mut kept = SupportAccessClient::new(channel);
    let new = Authority::new("the next");
    fs::write(&world.files.client_ca, format!("{}{}", world.authority.pem(), new.pem())).unwrap();
    eventually(async || connects(new.client(GATEWAY)).await).await;
    assert!(connects(old.clone()).await, "both hold meanwhile");
    kept.check_access(a_check()).await.unwrap();
    fs::write(&world.files.client_ca, new.pem()).unwrap();
    eventually(async || !connects(old.clone()).await).await;
    assert!(connects(new.client(GATEWAY)).await);
    let refused = kept.check_access(a_check()).await;
    assert!(refused.is_err(), "a connection that was there before");
}

#[tokio::test]
async fn keys_in_a_file_are_read_again() {
    let world = World::new().await;
    let second = Signer::es256("second");
    let claims = super::issuer::claims("olga", "vendor-gateway", &[]);
    let asks = async |signer: &Signer| {
        let request = super::bearing(a_check(), &signer.sign(&claims));
        world.checks(None).await.check_access(request).await.is_ok()
    };
    assert!(asks(&world.issuer.signer).await);
    fs::write(&world.files.jwks, super::issuer::set(&[&second])).unwrap();
    eventually(async || asks(&second).await).await;
    assert!(!asks(&world.issuer.signer).await, "a key that was withdrawn is not taken");
}
